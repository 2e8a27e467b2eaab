"""Stage rewrite_captions: safe caption + sampled concept -> unsafe caption, in resumable micro-batches."""

from __future__ import annotations

import hashlib
import json
import shutil
from collections.abc import Sequence
from dataclasses import asdict
from functools import partial
from pathlib import Path

import torch
import transformers

from safeclip.encoders.embed import embed_texts
from safeclip.encoders.load import load_encoder
from safeclip.guard import load_guard
from safeclip.records import CAPTIONS, QUARANTINE, write_table
from safeclip.settings import Settings
from safeclip.stages.stage import RESULTS, main, output, write_json
from safeclip.synthesis import engines, prompts
from safeclip.synthesis.answers import AnswerCheck, Outcome
from safeclip.synthesis.captions import SafeCaption, load_captions, select_captions
from safeclip.synthesis.concepts import ConceptDraw, draw_concepts, eligible_counts
from safeclip.synthesis.engines import RewriteRequest, TransformersRewriter
from safeclip.synthesis.language_model import folder_digest
from safeclip.synthesis.microbatches import RewriteJob, micro_batches, rewrite_all
from safeclip.synthesis.rewrite import STAGE, count_rows, make_requests, make_rows, summarise
from safeclip.synthesis.smollm import model_folder
from safeclip.taxonomy import load_taxonomy

ADAPTER = RESULTS / "tune_rewriter" / "adapter"


def rewrite_captions(settings: Settings) -> None:
    """data/ and the adapter -> results/rewrite_captions/{captions, quarantine}.parquet and counts.json."""
    guard, data = load_guard(), Path(settings.data.path)
    limits = {"train": settings.data.train, "val": settings.data.val, "test": settings.data.test}
    captions = select_captions(load_captions(data / "captions.jsonl"), limits)
    draws = _draw(settings, captions)
    print(f"{STAGE}: {len(captions)} captions, eligible concepts {eligible_counts(draws)}", flush=True)
    requests, refused = make_requests(captions, draws, guard)
    job = _job(settings, requests)
    outcomes = _run(settings, job, requests)
    name = f"{settings.tune_rewriter.model}+sft"
    by_id = {caption.id: caption for caption in captions}
    asked = {request.id: request for request in requests}
    rows, rejected = make_rows(by_id, asked, outcomes, rewriter=name, seed=settings.seed)
    rejected += refused
    destroyed = sum(outcome.destroyed for outcome in outcomes)
    print(f"{STAGE}: {len(rows)} rows, destroyed {destroyed}, quarantined: {summarise(rejected)}", flush=True)
    counts = count_rows(
        len(captions), len(rows), len(rejected), destroyed, settings.rewrite_captions.max_lost
    )
    with output(STAGE) as out:
        write_table(out / "captions.parquet", rows, CAPTIONS)
        write_table(out / "quarantine.parquet", rejected, QUARANTINE)
        write_json(out / "counts.json", counts)
    shutil.rmtree(job.folder)


def _draw(settings: Settings, captions: Sequence[SafeCaption]) -> list[ConceptDraw]:
    """One concept a caption, among the nearest under the base encoder."""
    data = Path(settings.data.path)
    phrases = load_taxonomy(data / "taxonomy.yaml").phrases
    encoder = load_encoder(data / "base_encoder")
    similarity = (
        embed_texts(encoder, [caption.caption for caption in captions])
        @ embed_texts(encoder, [phrase.text for phrase in phrases]).T
    )
    rows = [(caption.id, caption.caption) for caption in captions]
    nearest = settings.rewrite_captions.nearest_concepts
    return draw_concepts(rows, phrases, similarity, load_guard(), nearest=nearest, seed=settings.seed)


def _job(settings: Settings, requests: Sequence[RewriteRequest]) -> RewriteJob:
    """The work, and its checkpoint folder named after everything that decides the answers."""
    own, folder = settings.rewrite_captions, model_folder(settings.tune_rewriter.model)
    decides = {
        "settings": own.model_dump(),
        "seed": settings.seed,
        "threads": settings.compute.threads,
        "model": folder_digest(folder),
        "adapter": folder_digest(ADAPTER),
        "requests": [asdict(request) for request in requests],
        "code": [Path(str(module.__file__)).read_text(encoding="utf-8") for module in (engines, prompts)],
        "versions": [torch.__version__, transformers.__version__],
    }
    key = hashlib.sha256(json.dumps(decides, sort_keys=True).encode()).hexdigest()[:16]
    make = partial(
        TransformersRewriter, folder, ADAPTER, own, name=settings.tune_rewriter.model, seed=settings.seed
    )
    check = AnswerCheck(load_guard())
    return RewriteJob(make, check, settings.compute.threads, Path("work") / STAGE / key)


def _run(settings: Settings, job: RewriteJob, requests: Sequence[RewriteRequest]) -> list[Outcome]:
    batches = micro_batches(requests, settings.rewrite_captions.batch_size)
    outcomes: list[Outcome] = []
    for number, done in enumerate(rewrite_all(job, batches, settings.compute.workers), start=1):
        outcomes += done
        if number * 10 // len(batches) > (number - 1) * 10 // len(batches):
            print(f"{STAGE}: {len(outcomes)}/{len(requests)} captions", flush=True)
    return outcomes


if __name__ == "__main__":
    main(rewrite_captions)
