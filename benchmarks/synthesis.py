"""Captions a second of the rewriting engines, and what our own code costs beside them.

    python benchmarks/synthesis.py [--quick] [--json FILE]

The tuned picture-book rewriter (SmolLM2-135M) answers the same kind of requests one by one, in micro-batches
and behind a vLLM server, alternating, each on one thread; a ratio is the median of the pairs. The overhead is
measured with an engine that answers after a fixed time, for 1,000 and 16,000 rows of the real path: draws,
requests, micro-batches, checkpoints, judging, table. Needs results/tune_rewriter (`make run`), and .venv-vllm
(`make vllm`) for its part.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import statistics
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path

os.environ.setdefault("OMP_NUM_THREADS", "1")

import torch

from safeclip.core.device import resolve_setting
from safeclip.core.guard import load_guard
from safeclip.core.records import CAPTIONS, write_table
from safeclip.core.taxonomy import load_taxonomy
from safeclip.settings import RewriteCaptions, load_settings
from safeclip.synthesis.answers import AnswerCheck
from safeclip.synthesis.captions import SafeCaption, load_captions
from safeclip.synthesis.concepts import ConceptDraw, draw_concepts
from safeclip.synthesis.engines import RewriteAnswer, Rewriter, RewriteRequest
from safeclip.synthesis.language_model import model_folder
from safeclip.synthesis.microbatches import RewriteJob, micro_batches, rewrite_all
from safeclip.synthesis.rewrite import make_requests, make_rows
from safeclip.synthesis.vllm_server import open_rewriter

ROOT = Path(__file__).resolve().parents[1]
ADAPTER = ROOT / "results" / "tune_rewriter" / "adapter"
PAIRS = 5
LATENCY = 0.02  # seconds a micro-batch of the engine that only waits
SMALL, LARGE = 1_000, 16_000


@dataclass
class FixedLatency:
    """Answers every request with its caption and the concept, after the same time whatever the rows."""

    name: str = "fixed latency"

    def rewrite(self, requests: Sequence[RewriteRequest]) -> list[RewriteAnswer]:
        time.sleep(LATENCY)
        return [RewriteAnswer(request.id, f"{request.caption} with a gun") for request in requests]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="fewer captions a pair")
    parser.add_argument("--json", type=Path, metavar="FILE", help="also write every figure and sample here")
    options = parser.parse_args()
    os.chdir(ROOT)
    torch.set_num_threads(1)
    figures = machine() | overhead() | engines(*((2, 32) if options.quick else (4, 64)))
    if options.json:
        options.json.write_text(json.dumps(figures, indent=2, sort_keys=True) + "\n", encoding="utf-8")
    for name in (
        "batched_over_single",
        "vllm_over_single",
        "overhead_rows_per_s_1k",
        "overhead_rows_per_s_16k",
    ):
        value = figures.get(name)
        print(f"{name:26} {value:10.2f}" if isinstance(value, float) else f"{name:26}    NOT RUN")


def machine() -> dict[str, object]:
    return {
        "machine": f"{platform.machine()}, {os.cpu_count()} cores",
        "python": platform.python_version(),
        "torch": torch.__version__,
        "transformers": version("transformers"),
        "threads": torch.get_num_threads(),
    }


def engines(single: int, batch: int) -> dict[str, object]:
    """Pairs: `single` captions one by one, `batch` captions in one micro-batch, and `batch` through vLLM."""
    if not ADAPTER.exists():
        print("NOT RUN: no results/tune_rewriter; `make run` tunes the rewriter")
        return {}
    settings = resolve_setting(load_settings(), "rewrite_captions", "dtype", "cpu").rewrite_captions
    with ExitStack() as open_servers:
        in_process = open_servers.enter_context(rewriter("transformers", settings))
        sides = {"single": (in_process, single, 1), "batched": (in_process, batch, batch)}
        if (ROOT / settings.vllm.environment / ".installed").exists():
            sides["vllm"] = (open_servers.enter_context(rewriter("vllm", settings)), batch, batch)
        else:
            print("NOT RUN: no .venv-vllm; `make vllm` builds it")
        samples = alternate(sides)
    ratios: dict[str, object] = {f"{side}_captions_per_s": rates for side, rates in samples.items()}
    for side in set(sides) - {"single"}:
        pairs = zip(samples[side], samples["single"], strict=True)
        ratios[f"{side}_over_single"] = statistics.median(many / one for many, one in pairs)
    return ratios


def alternate(sides: dict[str, tuple[Rewriter, int, int]]) -> dict[str, list[float]]:
    """Captions a second of each side, in turn, after one round that is not counted; other rows each round."""
    requests = asked(1_000)
    samples: dict[str, list[float]] = {side: [] for side in sides}
    at = 0
    for turn in range(PAIRS + 1):
        for side, (engine, count, size) in sides.items():
            rows = requests[at : at + count]
            at += count
            start = time.perf_counter()
            for batch in micro_batches(rows, size):
                engine.rewrite(batch)
            if turn:
                samples[side].append(count / (time.perf_counter() - start))
    return samples


@contextmanager
def rewriter(engine: str, settings: RewriteCaptions) -> Iterator[Rewriter]:
    """An engine on one thread, as the stage makes it."""
    chosen = settings.model_copy(update={"engine": engine})
    folder = model_folder(load_settings().tune_rewriter.model)
    with open_rewriter(folder, ADAPTER, chosen, seed=1, threads=1) as make:
        yield make()


def overhead() -> dict[str, object]:
    """Rows a second of everything but the model, for few rows and for many, alternating."""
    rates: dict[int, list[float]] = {SMALL: [], LARGE: []}
    for turn in range(PAIRS + 1):
        for rows in rates:
            rate = own_rate(rows)
            if turn:
                rates[rows].append(rate)
    return {
        "overhead_rows_per_s_1k": statistics.median(rates[SMALL]),
        "overhead_rows_per_s_16k": statistics.median(rates[LARGE]),
        "overhead_16k_over_1k": statistics.median(
            large / small for large, small in zip(rates[LARGE], rates[SMALL], strict=True)
        ),
        "overhead_samples_1k": rates[SMALL],
        "overhead_samples_16k": rates[LARGE],
    }


def own_rate(rows: int) -> float:
    """Rows a second of the stage's own work: draws, requests, micro-batches, checkpoints, judging, table."""
    taxonomy, guard = load_taxonomy("data/taxonomy.yaml"), load_guard()
    captions = many_captions(rows)
    similarity = torch.rand(rows, len(taxonomy.phrases), generator=torch.Generator().manual_seed(1))
    with tempfile.TemporaryDirectory() as folder:
        start = time.perf_counter()
        keys = [(caption.id, caption.caption) for caption in captions]
        draws = draw_concepts(keys, taxonomy.phrases, similarity, guard, nearest=50, seed=1)
        requests, _ = make_requests(captions, draws, guard)
        batches = micro_batches(requests, 64)
        job = RewriteJob(FixedLatency, AnswerCheck(guard), 1, Path(folder))
        outcomes = [outcome for done in rewrite_all(job, batches, 1) for outcome in done]
        made, _ = make_rows(captions, requests, outcomes, rewriter="fixed latency", seed=1)
        write_table(Path(folder) / "captions.parquet", made, CAPTIONS)
        took = time.perf_counter() - start - LATENCY * len(batches)
    return rows / took


def many_captions(rows: int) -> list[SafeCaption]:
    """The data's captions, as often as it takes, each under an id of its own."""
    known = load_captions(Path("data/captions.jsonl"))
    return [
        known[at % len(known)].model_copy(update={"id": f"row-{at:06d}", "image": None}) for at in range(rows)
    ]


def asked(rows: int) -> list[RewriteRequest]:
    """Requests for real captions with phrases in turn."""
    phrases, guard = load_taxonomy("data/taxonomy.yaml").phrases, load_guard()
    captions = many_captions(rows)
    draws = [ConceptDraw(phrases[at % len(phrases)], 1) for at in range(rows)]
    return make_requests(captions, draws, guard)[0]


if __name__ == "__main__":
    main()
