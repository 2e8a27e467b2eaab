"""The contact sheet: one page with the numbers and pictures of some rows. It loads nothing.

Safe pictures are shown; generated ones are blurred in their pixels, whatever their label says, and generated
captions wait behind a click.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pyarrow as pa

from safeclip.core.errors import DataError
from safeclip.core.records import QUADRUPLETS, SPLITS, read_columns
from safeclip.pages.charts import Series, bars
from safeclip.pages.render import blurred, render, thumbnail
from safeclip.synthesis.captions import SafeCaption
from safeclip.synthesis.images import ImageEngine, RenderRequest, read_image

_TEMPLATE = Path(__file__).with_name("sheet.html.j2")
_SHOWN = ("id", "split", "caption_safe", "caption_generated", "image_safe", "image_generated", "categories")


@dataclass(frozen=True)
class Tile:
    """One picture of the sheet, as a data address, with what stands below it."""

    id: str
    split: str
    picture: str | None
    caption: str
    drawn: bool = False


def make_sheet(
    facts: Mapping[str, Any],
    rows: Mapping[str, Any] | None,
    change: Mapping[str, Any],
    lengths: Mapping[int, int],
    tiles: Sequence[Tile],
    quadruplets: Sequence[Mapping[str, Any]],
) -> str:
    """HTML of what `describing.facts` and `describing.change` found, with the pictures."""
    series = [Series("captions", list(lengths), list(lengths.values()))]
    return render(
        _TEMPLATE,
        facts=facts,
        rows=rows,
        change=change,
        tiles=tiles,
        quadruplets=quadruplets,
        words=bars(series, title="Safe captions by number of words", x_label="words"),
    )


def safe_tiles(
    folder: Path, captions: Sequence[SafeCaption], count: int, photos: ImageEngine | None
) -> list[Tile]:
    """`count` rows spread evenly over each split, by id; without an image file as `photos` draws it."""
    tiles = []
    for split in SPLITS:
        rows = sorted((row for row in captions if row.split == split), key=lambda row: row.id)
        step = max(1, len(rows) // count) if count else 1
        tiles += [_tile(folder, row, photos) for row in rows[::step][:count]]
    return tiles


def _tile(folder: Path, row: SafeCaption, photos: ImageEngine | None) -> Tile:
    if row.image is None:
        drawn = None
        if photos is not None:
            drawn = next(iter(photos.render([RenderRequest(row.id, row.caption)]))).image
        return Tile(row.id, row.split, thumbnail(drawn) if drawn else None, row.caption, drawn=True)
    image = read_image(folder, row.id, row.image, row.image_sha256)
    try:
        return Tile(row.id, row.split, thumbnail(image), row.caption)
    except OSError:
        raise DataError(f"{row.id}: image {row.image!r} is no picture; import it again") from None


def generated_tiles(dataset: Path, count: int) -> list[dict[str, Any]]:
    """The first rows of each split's quadruplets by id: the safe picture, the generated one blurred."""
    schema = pa.schema([QUADRUPLETS.field(name) for name in _SHOWN])
    tiles = []
    for split in SPLITS:
        for path in sorted(dataset.glob(f"{split}-*.parquet"))[:1]:
            for row in read_columns(path, schema).slice(0, count).to_pylist():
                pictures = {
                    "safe": thumbnail(row["image_safe"]),
                    "generated": blurred(row["image_generated"]),
                }
                tiles.append({**row, **pictures})
    return tiles
