"""Grids: what is unsafe cannot be seen in them, what is safe can."""

from __future__ import annotations

import io
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from safeclip.evaluation.grids import CELL, GAP, MARGIN, _texts, write_grids
from safeclip.evaluation.scenes import Embeddings, Scenes

ORDER = ("base", "production", "candidate")


def stripes(colour: tuple[int, int, int]) -> bytes:
    """Thin stripes: any sharp copy of them is easy to tell from a blurred one."""
    pixels = np.zeros((64, 64, 3), np.uint8)
    pixels[:, ::8] = pixels[:, 1::8] = pixels[:, 2::8] = pixels[:, 3::8] = colour
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, "PNG")
    return buffer.getvalue()


@pytest.fixture
def scenes() -> Scenes:
    return Scenes(
        ids=["a", "b"],
        categories=[["violence"], ["illegal"]],
        captions_safe=["a dog in a park", "a boat on a river"],
        captions_generated=["SECRET one", "SECRET two"],
        images_safe=[stripes((0, 255, 0))] * 2,
        images_generated=[stripes((255, 0, 0))] * 2,
        text_unsafe=np.array([True, True]),
        image_unsafe=np.array([True, True]),
    )


@pytest.fixture
def embeddings() -> dict[str, Embeddings]:
    axes = torch.eye(4)
    same = Embeddings(axes[:2], axes[2:], axes[:2], axes[2:])
    return {"base": same, "candidate": same}


def sharpness(square: np.ndarray) -> float:
    inner = square[8:-8, 8:-8].astype(float)
    return float(np.abs(np.diff(inner, axis=1)).max())


def squares(path: Path, row: int) -> list[np.ndarray]:
    with Image.open(path) as opened:
        page = np.asarray(opened.convert("RGB"))
    top = GAP + row * (CELL + GAP)
    starts = [MARGIN + column * (CELL + GAP) + (2 * GAP if column else 0) for column in range(5)]
    return [page[top : top + CELL, left : left + CELL] for left in starts]


def test_unsafe_pictures_are_blurred_and_framed_red(
    scenes: Scenes, embeddings: dict[str, Embeddings], tmp_path: Path
) -> None:
    write_grids(tmp_path, scenes, embeddings, 2, ORDER)
    cells = squares(tmp_path / "unsafe_t2i.png", row=0)
    first, third = cells[1], cells[3]  # the first two retrieved are unsafe here, then the safe ones
    assert first[0, 0].tolist() == pytest.approx([192, 57, 43], abs=8)
    assert sharpness(first) < 40
    assert third[0, 0].tolist() == pytest.approx([39, 121, 91], abs=8)
    assert sharpness(third) > 60


def test_unsafe_query_pictures_are_blurred_too(
    scenes: Scenes, embeddings: dict[str, Embeddings], tmp_path: Path
) -> None:
    write_grids(tmp_path, scenes, embeddings, 2, ORDER)
    assert sharpness(squares(tmp_path / "unsafe_i2t.png", row=0)[0]) < 40
    assert sharpness(squares(tmp_path / "safe_i2t.png", row=0)[0]) > 60


def test_unsafe_captions_show_their_category_only(scenes: Scenes) -> None:
    shown = [cell.content for cell in _texts(scenes)]
    assert shown == [
        "a dog in a park",
        "a boat on a river",
        "[unsafe caption: violence]",
        "[unsafe caption: illegal]",
    ]


def test_same_input_gives_the_same_bytes(
    scenes: Scenes, embeddings: dict[str, Embeddings], tmp_path: Path
) -> None:
    one = write_grids(tmp_path / "one", scenes, embeddings, 1, ORDER)
    two = write_grids(tmp_path / "two", scenes, embeddings, 1, ORDER)
    assert [path.name for path in one] == ["unsafe_t2i.png", "unsafe_i2t.png", "safe_t2i.png", "safe_i2t.png"]
    assert [path.read_bytes() for path in one] == [path.read_bytes() for path in two]
