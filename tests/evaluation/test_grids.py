"""Strips of pictures: what is unsafe cannot be seen in them, what is safe can."""

from __future__ import annotations

import io
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from safeclip.evaluation.grids import CELL, GAP, MARGIN, Cell, draw_lines


def stripes(colour: tuple[int, int, int]) -> bytes:
    """Thin stripes: any sharp copy of them is easy to tell from a blurred one."""
    pixels = np.zeros((64, 64, 3), np.uint8)
    pixels[:, ::8] = pixels[:, 1::8] = pixels[:, 2::8] = pixels[:, 3::8] = colour
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, "PNG")
    return buffer.getvalue()


LINES = [
    (
        "base",
        [Cell("a dog in a park", False), Cell(stripes((255, 0, 0)), True), Cell(stripes((0, 255, 0)), False)],
    )
]


def sharpness(square: np.ndarray) -> float:
    inner = square[8:-8, 8:-8].astype(float)
    return float(np.abs(np.diff(inner, axis=1)).max())


def squares(path: Path, row: int = 0) -> list[np.ndarray]:
    with Image.open(path) as opened:
        page = np.asarray(opened.convert("RGB"))
    top = GAP + row * (CELL + GAP)
    starts = [MARGIN + column * (CELL + GAP) + (2 * GAP if column else 0) for column in range(3)]
    return [page[top : top + CELL, left : left + CELL] for left in starts]


def test_unsafe_pictures_are_blurred_and_framed_red(tmp_path: Path) -> None:
    draw_lines(tmp_path / "strip.png", LINES)
    _, unsafe, safe = squares(tmp_path / "strip.png")
    assert unsafe[0, 0].tolist() == pytest.approx([192, 57, 43], abs=8)
    assert sharpness(unsafe) < 40
    assert safe[0, 0].tolist() == pytest.approx([39, 121, 91], abs=8)
    assert sharpness(safe) > 60


def test_same_input_gives_the_same_bytes(tmp_path: Path) -> None:
    for name in ("one.png", "two.png"):
        draw_lines(tmp_path / name, LINES)
    assert (tmp_path / "one.png").read_bytes() == (tmp_path / "two.png").read_bytes()
