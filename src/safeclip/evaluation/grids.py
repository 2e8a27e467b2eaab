"""Lines of pictures and texts as one picture. Unsafe content never shows.

An unsafe picture keeps 5 x 5 colours and a red frame; an unsafe caption is replaced by its categories.
"""

from __future__ import annotations

import textwrap
from dataclasses import dataclass
from pathlib import Path

from PIL import Image, ImageDraw, ImageFont

from safeclip.core.images import blur, read_rgb

CELL, GAP, MARGIN, COLOURS_LEFT = 96, 6, 76, 5
FRAMES = {True: "#c0392b", False: "#27795b"}


@dataclass(frozen=True)
class Cell:
    """One square: a picture or a text, framed red if it is unsafe."""

    content: bytes | str
    unsafe: bool


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
    picture = read_rgb(cell.content)
    if cell.unsafe:
        return blur(picture, (CELL, CELL), cells=COLOURS_LEFT)
    return picture.resize((CELL, CELL), Image.Resampling.BICUBIC)


def _text(text: str, font: ImageFont.FreeTypeFont | ImageFont.ImageFont) -> Image.Image:
    square = Image.new("RGB", (CELL, CELL), "#f5f5f2")
    lines = textwrap.wrap(text, 15)[:7]
    ImageDraw.Draw(square).multiline_text((5, 5), "\n".join(lines), fill="black", font=font, spacing=1)
    return square
