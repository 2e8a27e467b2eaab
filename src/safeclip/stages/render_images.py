"""Stage render_images: a safe and a generated picture for every row, in shards, with the truth beside them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pyarrow as pa

from safeclip.records import CAPTIONS, IMAGES, QUARANTINE, TRUTH, read_table, write_table
from safeclip.settings import Settings
from safeclip.stages.stage import RESULTS, main, output, write_json
from safeclip.synthesis.captions import load_captions
from safeclip.synthesis.images import PictureBookEngine
from safeclip.synthesis.render import RenderedRows, SafePictures, render_rows

STAGE = "render_images"


def render_images(settings: Settings) -> None:
    """captions.parquet and data/ -> results/render_images/{images-*.parquet, truth, quarantine, counts}."""
    data, own = Path(settings.data.path), settings.render_images
    table = read_table(RESULTS / "rewrite_captions" / "captions.parquet", CAPTIONS)
    files = {caption.id: caption.image for caption in load_captions(data / "captions.jsonl") if caption.image}
    book = PictureBookEngine("photo", own.image_size, seed=settings.seed)
    safe = SafePictures(book, data, files)
    generated = PictureBookEngine(
        "generated", own.image_size, seed=settings.seed, misrender=own.misrender
    )
    with output(STAGE) as out:
        counts = {"in": table.num_rows, "out": 0, "quarantined": 0, "destroyed": 0}
        truth: list[dict[str, Any]] = []
        rejected: list[dict[str, str]] = []
        for shard, start in enumerate(range(0, table.num_rows, own.shard_rows)):
            rows = table.slice(start, own.shard_rows).to_pylist()
            rendered = render_rows(rows, safe, generated)
            write_table(out / f"images-{shard:05d}.parquet", rendered.images, IMAGES)
            truth += rendered.truth
            rejected += rendered.rejected
            print(f"{STAGE}: {start + len(rows)}/{table.num_rows} rows", flush=True)
        counts |= {"out": len(truth), "quarantined": len(rejected)}
        write_table(out / "truth.parquet", truth, TRUTH)
        write_table(out / "quarantine.parquet", rejected, QUARANTINE)
        write_json(out / "counts.json", counts)


if __name__ == "__main__":
    main(render_images)
