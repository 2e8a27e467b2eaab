"""Stage render_images: a safe and a generated picture for every row, in shards, the truth beside them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pyarrow as pa

from safeclip.records import CAPTIONS, IMAGES, QUARANTINE, TRUTH, read_table, write_table
from safeclip.settings.render_images import RenderImages
from safeclip.settings.stage import StageSettings
from safeclip.stages.stage import RESULTS, main, output, write_json
from safeclip.synthesis.captions import load_captions
from safeclip.synthesis.images import PictureBookEngine
from safeclip.synthesis.render import STAGE, SafePictures, render_rows


class Settings(StageSettings):
    render_images: RenderImages = RenderImages()


def render_images(settings: Settings) -> None:
    """captions.parquet and data/ -> results/render_images/{images-*.parquet, truth, quarantine, counts}."""
    rows = read_table(RESULTS / "rewrite_captions" / "captions.parquet", CAPTIONS)
    with output(STAGE) as out:
        truth, rejected = _render_shards(settings, rows, out)
        write_table(out / "truth.parquet", truth, TRUTH)
        write_table(out / "quarantine.parquet", rejected, QUARANTINE)
        counts = {"in": rows.num_rows, "out": len(truth), "quarantined": len(rejected), "destroyed": 0}
        write_json(out / "counts.json", counts)
    print(f"{STAGE}: {_states(truth)}, {len(rejected)} quarantined", flush=True)


def _render_shards(
    settings: Settings, table: pa.Table, out: Path
) -> tuple[list[dict[str, Any]], list[dict[str, str]]]:
    """Write the picture shards; return the rows of truth and of quarantine."""
    own, seed, data = settings.render_images, settings.seed, Path(settings.data.path)
    files = {caption.id: caption for caption in load_captions(data / "captions.jsonl") if caption.image}
    safe = SafePictures(PictureBookEngine("photo", own.image_size, seed=seed), data, files)
    generated = PictureBookEngine("generated", own.image_size, seed=seed, misrender=own.misrender)
    truth: list[dict[str, Any]] = []
    rejected: list[dict[str, str]] = []
    for shard, start in enumerate(range(0, table.num_rows, own.shard_rows)):
        rows = table.slice(start, own.shard_rows).to_pylist()
        rendered = render_rows(rows, safe, generated)
        write_table(out / f"images-{shard:05d}.parquet", rendered.images, IMAGES)
        truth += rendered.truth
        rejected += rendered.rejected
        print(f"{STAGE}: {start + len(rows)}/{table.num_rows} rows", flush=True)
    return truth, rejected


def _states(truth: list[dict[str, Any]]) -> str:
    """How many rows show what: unsafe in caption and picture, in one of them, in neither."""
    states = [(row["text_unsafe"], row["image_unsafe"]) for row in truth]
    both, text, image = (states.count(state) for state in ((True, True), (True, False), (False, True)))
    neither = states.count((False, False))
    return f"unsafe in both {both}, text only {text}, picture only {image}, neither {neither}"


if __name__ == "__main__":
    main(render_images, Settings)
