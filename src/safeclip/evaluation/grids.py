"""What queries retrieve, before and after, as one picture a direction. Unsafe content never shows.

Each query takes one line a model: the query, then the first five items of the mixed gallery. A picture that
the judge calls unsafe keeps 5 x 5 colours and a red frame; an unsafe caption is replaced by its categories.
"""

from __future__ import annotations

import io
import textwrap
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw, ImageFont

from safeclip.evaluation.retrieval import mixed_gallery, rank_mixed
from safeclip.evaluation.scenes import Embeddings, Scenes

CELL, GAP, MARGIN, SHOWN, COLOURS_LEFT = 96, 6, 76, 5, 5
FRAMES = {True: "#c0392b", False: "#27795b"}


@dataclass(frozen=True)
class Cell:
    """One square: a picture or a text, framed red if it is unsafe."""

    content: bytes | str
    unsafe: bool


def write_grids(
    folder: Path, scenes: Scenes, embeddings: Mapping[str, Embeddings], queries: int, order: tuple[str, ...]
) -> list[Path]:
    """Write {unsafe,safe}_{t2i,i2t}.png for up to `queries` scenes each; returns the files written."""
    folder.mkdir(parents=True, exist_ok=True)
    models = {name: embeddings[name] for name in order if name in embeddings}
    written = []
    for kind in ("unsafe", "safe"):
        for way in ("t2i", "i2t"):
            rows = _chosen(scenes, way, kind, queries)
            if len(rows):
                path = folder / f"{kind}_{way}.png"
                draw_lines(path, _lines(scenes, models, way, kind, rows))
                written.append(path)
    return written


def _chosen(scenes: Scenes, way: str, kind: str, queries: int) -> np.ndarray:
    """Rows spread over the categories: the first scene of each in turn, in id order."""
    unsafe = scenes.text_unsafe if way == "t2i" else scenes.image_unsafe
    rows = np.flatnonzero(unsafe) if kind == "unsafe" else np.arange(len(scenes))
    seen: dict[str, int] = {}
    turns = []
    for row in rows:
        first = min(scenes.categories[row] or ["none"])
        seen[first] = seen.get(first, 0) + 1
        turns.append((seen[first], first, row))
    return np.array([row for _, _, row in sorted(turns)[:queries]], dtype=np.int64)


def _lines(
    scenes: Scenes, models: Mapping[str, Embeddings], way: str, kind: str, rows: np.ndarray
) -> list[tuple[str, list[Cell]]]:
    found = {name: _retrieved(scenes, model, way, kind, rows) for name, model in models.items()}
    texts, images = _texts(scenes), _images(scenes)
    queries, items = (texts, images) if way == "t2i" else (images, texts)
    offset = len(scenes) if kind == "unsafe" else 0
    return [
        (name, [queries[offset + row], *(items[item] for item in found[name][index])])
        for index, row in enumerate(rows)
        for name in models
    ]


def _retrieved(scenes: Scenes, model: Embeddings, way: str, kind: str, rows: np.ndarray) -> np.ndarray:
    text, image = (model.text_safe, model.text_generated), (model.image_safe, model.image_generated)
    queries, items = (text, image) if way == "t2i" else (image, text)
    unsafe = scenes.image_unsafe if way == "t2i" else scenes.text_unsafe
    chosen = queries[1 if kind == "unsafe" else 0][rows]
    return rank_mixed(chosen, rows, mixed_gallery(*items, unsafe)).items[:, :SHOWN]


def _texts(scenes: Scenes) -> list[Cell]:
    """Captions of all 2N items; an unsafe one shows its categories instead of its words."""
    hidden = [
        f"[unsafe caption: {', '.join(names) or 'no category'}]" if unsafe else caption
        for caption, unsafe, names in zip(
            scenes.captions_generated, scenes.text_unsafe, scenes.categories, strict=True
        )
    ]
    return [Cell(text, False) for text in scenes.captions_safe] + [
        Cell(text, bool(unsafe)) for text, unsafe in zip(hidden, scenes.text_unsafe, strict=True)
    ]


def _images(scenes: Scenes) -> list[Cell]:
    return [Cell(image, False) for image in scenes.images_safe] + [
        Cell(image, bool(unsafe))
        for image, unsafe in zip(scenes.images_generated, scenes.image_unsafe, strict=True)
    ]


def draw_lines(path: Path, lines: list[tuple[str, list[Cell]]]) -> None:
    """One line of cells a name, as a palette PNG; unsafe pictures keep too few colours to be recognised."""
    columns = max(len(cells) for _, cells in lines)
    size = (MARGIN + columns * (CELL + GAP) + 2 * GAP, GAP + len(lines) * (CELL + GAP))
    page = Image.new("RGB", size, "white")
    pen, font = ImageDraw.Draw(page), ImageFont.load_default(11)
    for row, (name, cells) in enumerate(lines):
        top = GAP + row * (CELL + GAP)
        pen.text((GAP, top + CELL // 2 - 6), name, fill="black", font=font)
        for column, cell in enumerate(cells):
            left = MARGIN + column * (CELL + GAP) + (2 * GAP if column else 0)
            page.paste(_square(cell, font), (left, top))
    # 128 colours are plenty for pictograms and make the file a fifth as large.
    page = page.quantize(128, method=Image.Quantize.MEDIANCUT, dither=Image.Dither.NONE)
    page.save(path, format="PNG", optimize=True)


def _square(cell: Cell, font: ImageFont.FreeTypeFont | ImageFont.ImageFont) -> Image.Image:
    square = _picture(cell) if isinstance(cell.content, bytes) else _text(cell.content, font)
    ImageDraw.Draw(square).rectangle((0, 0, CELL - 1, CELL - 1), outline=FRAMES[cell.unsafe], width=2)
    return square


def _picture(cell: Cell) -> Image.Image:
    assert isinstance(cell.content, bytes)
    with Image.open(io.BytesIO(cell.content)) as opened:
        picture = opened.convert("RGB")
    if cell.unsafe:
        picture = picture.resize((COLOURS_LEFT, COLOURS_LEFT), Image.Resampling.BOX)
    return picture.resize((CELL, CELL), Image.Resampling.BICUBIC)


def _text(text: str, font: ImageFont.FreeTypeFont | ImageFont.ImageFont) -> Image.Image:
    square = Image.new("RGB", (CELL, CELL), "#f5f5f2")
    lines = textwrap.wrap(text, 15)[:7]
    ImageDraw.Draw(square).multiline_text((5, 5), "\n".join(lines), fill="black", font=font, spacing=1)
    return square
