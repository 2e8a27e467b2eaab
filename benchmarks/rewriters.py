"""What preference tuning gains: the base model, SFT and SFT + DPO on captions that none of them learned from.

    python benchmarks/rewriters.py [--quick] [--json FILE]

Each answers the same requests (captions of the val split, concepts drawn as the chain draws them). The judge
is the picture book's lexicon: which things a caption names, and in which categories; it is neither the reward
of preference tuning nor the labeller nor the filter. Shares are of all n requests, so that a rejected rewrite
counts against its model; similarity is the share of words kept in order, of the accepted ones; `product` is
share in the asked category times similarity, and what DPO gains on it comes with a paired bootstrap interval.
Needs results/tune_rewriter (`make run`); if that was made by SFT alone, DPO with the values of
params/full.yaml follows here and is kept in work/rewriters/; a run that was killed goes on.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import os
import platform
import shutil
import tempfile
from collections.abc import Mapping, Sequence
from importlib.metadata import version
from pathlib import Path
from statistics import fmean
from typing import Any

os.environ.setdefault("OMP_NUM_THREADS", "1")

import numpy as np
import torch
from numpy.typing import NDArray
from peft import PeftModel
from ruamel.yaml import YAML
from safetensors.torch import load_file, save_file
from torchmetrics.functional.text import bleu_score

from picturebook.lexicon import find_entries
from safeclip.core.checkpoints import Scratch
from safeclip.core.device import default_device, resolve_setting
from safeclip.core.guard import load_guard
from safeclip.core.taxonomy import load_taxonomy
from safeclip.core.text import ordered_overlap
from safeclip.encoders.embed import embed_texts
from safeclip.encoders.load import Encoder, load_encoder
from safeclip.settings import Preference, Settings, load_settings
from safeclip.stages.tune_rewriter import learn_preferences, rank_rewrites
from safeclip.synthesis.answers import RewriteOutcome
from safeclip.synthesis.captions import load_captions
from safeclip.synthesis.concepts import draw_concepts, nearness
from safeclip.synthesis.engines import RewriteRequest
from safeclip.synthesis.language_model import folder_digest, load_model, model_folder
from safeclip.synthesis.preferences import draw_rewrites, preference_report
from safeclip.synthesis.rewrite import make_requests
from safeclip.synthesis.rewriter import TunedRewriter, save_rewriter
from safeclip.validation.health import distinct_n, vendi

ROOT = Path(__file__).resolve().parents[1]
TUNED = ROOT / "results" / "tune_rewriter"
WORK = Path("work/rewriters")
ROWS = (
    "n", "judged_unsafe", "in_category", "similarity", "product", "embedding_similarity",
    "unchanged", "rejected", "destroyed", "length_ratio", "self_bleu", "distinct_1", "distinct_2", "vendi",
)  # fmt: skip


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="64 captions instead of 384")
    parser.add_argument(
        "--json", type=Path, metavar="FILE", help="also write every figure and answer's fate here"
    )
    options = parser.parse_args()
    os.chdir(ROOT)
    os.umask(0o077)  # rewrites that are drawn for DPO are kept
    torch.set_num_threads(1)
    if not (TUNED / "adapter").exists():
        print("NOT RUN: no results/tune_rewriter; `make run` tunes the rewriter")
        return
    settings = resolve_setting(load_settings(), "tune_rewriter", "dtype", default_device())
    settings = resolve_setting(settings, "rewrite_captions", "dtype", "cpu")
    encoder = load_encoder("data/base_encoder")
    requests = held_out(encoder, 64 if options.quick else 384)
    WORK.mkdir(parents=True, exist_ok=True)
    figures = {
        name: measured(settings, encoder, adapter, requests) for name, adapter in adapters(settings).items()
    }
    gain = product_gain(figures["sft"], figures["sft_dpo"])
    if options.json:
        flat = {f"{name}_{key}": value for name, found in figures.items() for key, value in found.items()}
        flat |= {f"gain_{key}": value for key, value in gain.items()}
        options.json.write_text(
            json.dumps(machine() | flat, indent=2, sort_keys=True) + "\n", encoding="utf-8"
        )
    print(f"{'':26}" + "".join(f"{name:>10}" for name in figures))
    for row in ROWS:
        print(f"{row:26}" + "".join(f"{shown(found[row]):>10}" for found in figures.values()))
    print("DPO's gain in product over SFT: {estimate:+.3f}, 95 % {low:+.3f} to {high:+.3f}".format(**gain))


def machine() -> dict[str, object]:
    return {
        "machine": f"{platform.machine()}, {os.cpu_count()} cores",
        "torch": torch.__version__,
        "trl": version("trl"),
        "threads": torch.get_num_threads(),
    }


def shown(value: float | int | None) -> str:
    return "-" if value is None else f"{value:.3f}" if isinstance(value, float) else str(value)


def held_out(encoder: Encoder, count: int) -> list[RewriteRequest]:
    """Requests for val captions; no rewriter has learned from that split."""
    taxonomy, guard = load_taxonomy("data/taxonomy.yaml"), load_guard()
    captions = [row for row in load_captions(Path("data/captions.jsonl")) if row.split == "val"][:count]
    cosines = nearness(encoder, [row.caption for row in captions], taxonomy.phrases)
    rows = [(row.id, row.caption) for row in captions]
    draws = draw_concepts(rows, taxonomy.phrases, cosines, guard, nearest=50, seed=1)
    return make_requests(captions, draws, guard)[0]


def adapters(settings: Settings) -> dict[str, Path]:
    """The adapters to compare: one that changes nothing, what SFT left, what DPO made of that."""
    sft = TUNED / "sft" / "adapter" if (TUNED / "sft").exists() else TUNED / "adapter"
    preferred = TUNED / "adapter" if (TUNED / "sft").exists() else preferred_here(settings, sft)
    return {"base": without_effect(sft), "sft": sft, "sft_dpo": preferred}


def without_effect(adapter: Path) -> Path:
    """A copy of the adapter whose update is zero: the base model, through the same code."""
    folder = WORK / "base"
    shutil.rmtree(folder, ignore_errors=True)
    shutil.copytree(adapter, folder)
    factors = load_file(adapter / "adapter_model.safetensors")
    zeroed = {name: value * (".lora_A." in name) for name, value in factors.items()}
    save_file(zeroed, folder / "adapter_model.safetensors")
    return folder


def preferred_here(settings: Settings, sft: Path) -> Path:
    """The SFT adapter after DPO with the values of the full profile; made once, a killed run goes on."""
    full = YAML(typ="safe").load(Path("params/full.yaml").read_text(encoding="utf-8"))
    own = Preference.model_validate(full["tune_rewriter"]["preference"])
    key = hashlib.sha256(f"{own.model_dump_json()}{folder_digest(sft)}".encode()).hexdigest()[:12]
    folder = WORK / f"dpo-{key}"
    if not (folder / "adapter").exists():
        print(f"DPO with {own.captions} captions, {own.draws} rewrites each", flush=True)
        folder.mkdir(parents=True, exist_ok=True)
        scratch = Scratch("rewriters", folder)
        base = model_folder(settings.tune_rewriter.model)
        ranked = rank_rewrites(settings, own, sft, scratch)
        print(preference_report(ranked), flush=True)
        model = load_model(base, getattr(torch, settings.tune_rewriter.dtype), attention="eager")
        tuned = TunedRewriter(PeftModel.from_pretrained(model, str(sft), is_trainable=True), ())
        preferred = learn_preferences(settings, own, tuned, ranked, scratch)
        with tempfile.TemporaryDirectory(dir=folder) as partial:
            save_rewriter(preferred, settings.tune_rewriter.model, Path(partial))
            os.replace(Path(partial) / "adapter", folder / "adapter")
    return folder / "adapter"


def measured(
    settings: Settings, encoder: Encoder, adapter: Path, requests: Sequence[RewriteRequest]
) -> dict[str, Any]:
    """All figures of one rewriter; measured once."""
    made_of = f"{folder_digest(adapter)} {len(requests)} {settings.seed} {Path(__file__).read_text()}"
    file = WORK / f"measured-{hashlib.sha256(made_of.encode()).hexdigest()[:12]}.json"
    if not file.exists():
        found = measure(settings, encoder, adapter, requests)
        partial = file.with_suffix(".partial")
        partial.write_text(json.dumps(found), encoding="utf-8")
        os.replace(partial, file)
    found = json.loads(file.read_text(encoding="utf-8"))
    return dict(found)


def measure(
    settings: Settings, encoder: Encoder, adapter: Path, requests: Sequence[RewriteRequest]
) -> dict[str, Any]:
    """All figures of one rewriter."""
    base, drawing = model_folder(settings.tune_rewriter.model), settings.rewrite_captions
    outcomes, _ = draw_rewrites(base, adapter, requests, drawing, load_guard(), seed=settings.seed)
    pairs = [
        (request, outcome.text) for request, outcome in zip(requests, outcomes, strict=True) if outcome.text
    ]
    found = [named(text) for _, text in pairs]
    right = [bool(said & set(asked.categories)) for said, (asked, _) in zip(found, pairs, strict=True)]
    rows = dict(zip((asked.id for asked, _ in pairs), right, strict=True))
    figures = counts(requests, outcomes) | {
        "judged_unsafe": sum(map(bool, found)) / len(requests),
        "in_category": sum(right) / len(requests),
        "rows_in_category": [rows.get(request.id, False) for request in requests],
        "rows_kept": [
            ordered_overlap(asked.caption, outcome.text) if outcome.text else None
            for asked, outcome in zip(requests, outcomes, strict=True)
        ],
        **kept(encoder, pairs),
        **spread([text for _, text in pairs]),
    }
    return figures | {"product": figures["in_category"] * (figures["similarity"] or 0.0)}


def product_gain(sft: Mapping[str, Any], dpo: Mapping[str, Any]) -> dict[str, float]:
    """DPO's product minus SFT's with a paired percentile bootstrap over the requests, 2,000 replicates."""
    rng = np.random.default_rng(1)
    draws = rng.integers(sft["n"], size=(2000, sft["n"]))
    ours, theirs = (
        [
            product(np.array(one["rows_in_category"])[rows], np.array(one["rows_kept"], float)[rows])
            for rows in draws
        ]
        for one in (dpo, sft)
    )
    low, high = np.quantile(np.subtract(ours, theirs), (0.025, 0.975))
    return {"estimate": dpo["product"] - sft["product"], "low": float(low), "high": float(high)}


def product(in_category: NDArray[np.bool_], kept: NDArray[np.float64]) -> float:
    """Share in the asked category, of all, times the words kept, of the accepted (the others are NaN)."""
    return float(in_category.mean() * np.nanmean(kept))


def named(caption: str) -> set[str]:
    """The judge: the unsafe categories of the things that a caption names."""
    return {category for entry in find_entries(caption) for category in entry.categories}


def counts(requests: Sequence[RewriteRequest], outcomes: Sequence[RewriteOutcome]) -> dict[str, Any]:
    n = len(requests)
    return {
        "n": n,
        "unchanged": sum(outcome.reason == "unchanged caption" for outcome in outcomes) / n,
        "rejected": sum(outcome.text is None and not outcome.destroyed for outcome in outcomes) / n,
        "destroyed": sum(outcome.destroyed for outcome in outcomes) / n,
        "fates": [outcome.reason or "accepted" for outcome in outcomes],
    }


def kept(encoder: Encoder, pairs: Sequence[tuple[RewriteRequest, str]]) -> Mapping[str, float | None]:
    """How much of the safe caption the accepted rewrites keep."""
    if not pairs:
        return dict.fromkeys(("similarity", "embedding_similarity", "length_ratio"))
    safe, unsafe = [asked.caption for asked, _ in pairs], [text for _, text in pairs]
    cosines = (embed_texts(encoder, safe) * embed_texts(encoder, unsafe)).sum(-1)
    return {
        "similarity": fmean(map(ordered_overlap, safe, unsafe)),
        "embedding_similarity": float(cosines.mean()),
        "length_ratio": fmean(
            len(after.split()) / len(before.split()) for before, after in zip(safe, unsafe, strict=True)
        ),
    }


def spread(texts: Sequence[str]) -> Mapping[str, float | None]:
    """How different the accepted rewrites are from each other."""
    return {
        "self_bleu": self_bleu(texts),
        "distinct_1": distinct_n(texts, 1),
        "distinct_2": distinct_n(texts, 2),
        "vendi": vendi(texts),
    }


def self_bleu(texts: Sequence[str]) -> float | None:
    """Mean smoothed BLEU-4 of each text against all others (arXiv 1802.01886); None below two texts."""
    if len(texts) < 2:
        return None
    return fmean(
        float(bleu_score([text], [[*texts[:at], *texts[at + 1 :]]], smooth=True))
        for at, text in enumerate(texts)
    )


if __name__ == "__main__":
    main()
