"""Stage render_images: a safe and a generated picture for every row, in shards, the truth beside them."""

from __future__ import annotations

from collections import Counter
from pathlib import Path
from typing import Any

import pyarrow as pa

from safeclip.core import artifacts
from safeclip.core.errors import DataError
from safeclip.core.files import write_json
from safeclip.core.parts import load_part, make_part
from safeclip.core.records import CAPTIONS, IMAGES, QUARANTINE, TRUTH, read_table, write_table
from safeclip.core.stage import main, output
from safeclip.core.taxonomy import load_taxonomy
from safeclip.settings import Settings
from safeclip.synthesis.captions import load_captions
from safeclip.synthesis.images import (
    STAGE,
    ImageEngine,
    KeptPictures,
    SafePictures,
    render_rows,
)


def render_images(settings: Settings) -> None:
    """captions.parquet and data/ -> results/render_images/{images-*.parquet, truth, quarantine, counts}."""
    rows = read_table(artifacts.CAPTIONS, CAPTIONS)
    kept = _kept(settings)
    with output(STAGE) as out:
        truth, rejected = _render_shards(settings, rows, _engine(settings, kept), out)
        write_table(out / "truth.parquet", truth, TRUTH)
        write_table(out / "quarantine.parquet", rejected, QUARANTINE)
        counts = {"in": rows.num_rows, "out": len(truth), "quarantined": len(rejected), "destroyed": 0}
        write_json(out / "counts.json", counts)
    if kept:
        kept.remove()
    print(f"{STAGE}: {_states(truth)}, {len(rejected)} quarantined", flush=True)


def _kept(settings: Settings) -> KeptPictures | None:
    """Where diffusers keep their finished micro-batches; an engine of one's own keeps them itself."""
    own = settings.render_images
    if own.engine != "diffusers":
        return None
    from safeclip.synthesis.diffusers_engine import pictures_digest

    threads = settings.compute.threads
    digest = pictures_digest(own.diffusers, own.image_size, seed=settings.seed, threads=threads)
    return KeptPictures(Path("work") / STAGE, digest)


def _engine(settings: Settings, kept: KeptPictures | None) -> ImageEngine:
    own, seed = settings.render_images, settings.seed
    if own.engine != "diffusers":
        return make_part(own.engine, own.image_size, seed=seed, **own.options)
    import torch

    from safeclip.synthesis.diffusers_engine import DiffusersEngine

    torch.set_num_threads(settings.compute.threads)
    return DiffusersEngine(own.diffusers, own.image_size, seed=seed, kept=kept)


def _allowed(settings: Settings) -> set[str]:
    """The concepts whose pictures may be unsafe by policy."""
    phrases = load_taxonomy(Path(settings.data.path) / "taxonomy.yaml").phrases
    return {name for phrase in phrases for name in (phrase.text, phrase.concept)}


def _render_shards(
    settings: Settings, table: pa.Table, generated: ImageEngine, out: Path
) -> tuple[list[dict[str, Any]], list[dict[str, str]]]:
    """Write the picture shards; return the rows of truth and of quarantine."""
    own, seed, data = settings.render_images, settings.seed, Path(settings.data.path)
    files = {caption.id: caption for caption in load_captions(data / "captions.jsonl") if caption.image}
    safe = SafePictures(make_part(own.photos, own.image_size, seed=seed), data, files)
    allowed = _allowed(settings)
    caption_truth = load_part(own.caption_truth)
    truth: list[dict[str, Any]] = []
    rejected: list[dict[str, str]] = []
    for shard, start in enumerate(range(0, table.num_rows, own.shard_rows)):
        rows = table.slice(start, own.shard_rows).to_pylist()
        rendered = render_rows(rows, safe, generated, allowed, caption_truth)
        write_table(out / f"images-{shard:05d}.parquet", rendered.images, IMAGES)
        truth += rendered.truth
        rejected += rendered.rejected
        _stop_if_too_many(rejected, table.num_rows, own.max_dropped_share)
        print(f"{STAGE}: {start + len(rows)}/{table.num_rows} rows", flush=True)
    return truth, rejected


def _stop_if_too_many(rejected: list[dict[str, str]], rows: int, most: float) -> None:
    """A `DataError` as soon as more than `most` of all rows are lost; it names the commonest reason."""
    if len(rejected) > most * rows:
        reason, count = Counter(row["reason"] for row in rejected).most_common(1)[0]
        raise DataError(
            f"{STAGE}: {len(rejected)} of {rows} rows have no picture, more than `max_dropped_share` {most}; "
            f"{count} of them: {reason}"
        )


def _states(truth: list[dict[str, Any]]) -> str:
    """How many rows show what: unsafe in caption and picture, in one of them, in neither."""
    states = [(row["text_unsafe"], row["image_unsafe"]) for row in truth]
    both, text, image = (states.count(state) for state in ((True, True), (True, False), (False, True)))
    neither = states.count((False, False))
    unknown = sum(None in state for state in states)
    if unknown:
        return f"{len(states)} rows, what {unknown} of them show is left to the labellers"
    return f"unsafe in both {both}, text only {text}, picture only {image}, neither {neither}"


if __name__ == "__main__":
    main(render_images)
