"""Stage rewrite_captions: safe caption + sampled concept -> unsafe caption, in resumable micro-batches."""

from __future__ import annotations

import shutil
from collections.abc import Sequence
from pathlib import Path

from safeclip.core.checkpoints import WORK, remove_stale
from safeclip.core.device import default_device, resolve_setting
from safeclip.core.files import write_json
from safeclip.core.guard import Guard, load_guard
from safeclip.core.records import CAPTIONS, QUARANTINE, write_table
from safeclip.core.stage import RESULTS, main, output
from safeclip.core.taxonomy import Taxonomy, load_taxonomy
from safeclip.encoders.load import load_encoder
from safeclip.settings import Settings
from safeclip.synthesis.answers import AnswerCheck, RewriteOutcome
from safeclip.synthesis.captions import SafeCaption, load_captions, select_captions
from safeclip.synthesis.concepts import ConceptDraw, concept_report, draw_concepts, nearness
from safeclip.synthesis.engines import RewriteRequest
from safeclip.synthesis.language_model import model_folder
from safeclip.synthesis.microbatches import (
    RewriteJob,
    answers_digest,
    checkpoint_folder,
    micro_batches,
    rewrite_all,
)
from safeclip.synthesis.rewrite import STAGE, count_rows, make_requests, make_rows, summarise
from safeclip.synthesis.vllm_server import open_rewriter

ADAPTER = RESULTS / "tune_rewriter" / "adapter"


def rewrite_captions(settings: Settings) -> None:
    """data/, adapter -> results/rewrite_captions/{captions, quarantine}.parquet, {counts, concepts}.json."""
    # the transformers engine computes on the CPU, in several workers
    device = default_device() if settings.rewrite_captions.engine == "vllm" else "cpu"
    settings = resolve_setting(settings, "rewrite_captions", "dtype", device)
    guard, own, seed = load_guard(), settings.rewrite_captions, settings.seed
    limits = {"train": settings.data.train, "val": settings.data.val, "test": settings.data.test}
    captions = select_captions(load_captions(Path(settings.data.path) / "captions.jsonl"), limits)
    taxonomy = load_taxonomy(Path(settings.data.path) / "taxonomy.yaml")
    draws = _draw(settings, captions, taxonomy, guard)
    concepts = concept_report(draws, taxonomy)
    print(f"{STAGE}: {len(captions)} captions, eligible phrases {concepts['eligible']}", flush=True)
    requests, refused = make_requests(captions, draws, guard)
    outcomes, checkpoints = _rewrite(settings, requests, guard)
    rows, rejected = make_rows(captions, requests, outcomes, rewriter=own.engine, seed=seed)
    rejected += refused
    destroyed = sum(outcome.destroyed for outcome in outcomes)
    print(f"{STAGE}: {len(rows)} rows, destroyed {destroyed}, quarantined: {summarise(rejected)}", flush=True)
    counts = count_rows(len(captions), len(rows), len(rejected), destroyed, own.max_dropped_share)
    with output(STAGE) as out:
        write_table(out / "captions.parquet", rows, CAPTIONS)
        write_table(out / "quarantine.parquet", rejected, QUARANTINE)
        write_json(out / "counts.json", counts)
        write_json(out / "concepts.json", concepts)
    shutil.rmtree(checkpoints)  # unsafe text is kept once, in the output


def _draw(
    settings: Settings, captions: Sequence[SafeCaption], taxonomy: Taxonomy, guard: Guard
) -> list[ConceptDraw]:
    """One concept a caption, among the nearest under the base encoder."""
    own = settings.rewrite_captions
    encoder = load_encoder(Path(settings.data.path) / "base_encoder")
    cosines = nearness(encoder, [caption.caption for caption in captions], taxonomy.phrases)
    return draw_concepts(
        [(caption.id, caption.caption) for caption in captions], taxonomy.phrases, cosines, guard,
        nearest=own.nearest_concepts, balance=own.category_balance, seed=settings.seed,
    )  # fmt: skip


def _rewrite(
    settings: Settings, requests: Sequence[RewriteRequest], guard: Guard
) -> tuple[list[RewriteOutcome], Path]:
    """All outcomes, and the folder of the finished micro-batches they came through."""
    own, seed, compute = settings.rewrite_captions, settings.seed, settings.compute
    folder = model_folder(settings.tune_rewriter.model)
    digest = answers_digest(folder, ADAPTER, own, seed=seed, threads=compute.threads)
    kept = checkpoint_folder(WORK / STAGE, digest, requests)
    remove_stale(STAGE, kept)
    threads = compute.threads * compute.workers  # a server has the cores that the workers would have
    with open_rewriter(folder, ADAPTER, own, seed=seed, threads=threads) as make:
        job = RewriteJob(make, AnswerCheck(guard), compute.threads, kept, waits=own.engine == "vllm")
        return _run(settings, job, requests), kept


def _run(settings: Settings, job: RewriteJob, requests: Sequence[RewriteRequest]) -> list[RewriteOutcome]:
    """All outcomes, with a line every tenth of the way."""
    batches = micro_batches(requests, settings.rewrite_captions.batch_size)
    outcomes: list[RewriteOutcome] = []
    for number, done in enumerate(rewrite_all(job, batches, settings.compute.workers), start=1):
        outcomes += done
        if number * 10 // len(batches) > (number - 1) * 10 // len(batches):
            print(f"{STAGE}: {len(outcomes)}/{len(requests)} captions", flush=True)
    return outcomes


if __name__ == "__main__":
    main(rewrite_captions)
