"""Pictures beside the maps of what in them the model reacts to. Unsafe pictures do not show."""

from __future__ import annotations

import io
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
from PIL import Image

from safeclip.audit.saliency import Explained, heat_map
from safeclip.evaluation.grids import Cell, draw_lines

SQUARES = 16
"""A side of a map: coarse enough that it shows where, not what."""


def write_figure(path: Path, explained: Mapping[str, Sequence[Explained]], pictures: int) -> bool:
    """One line a group: picture, map, picture, map; False where there is nothing to draw."""
    lines = [
        (name.replace("_", "\n"), [cell for one in group[:pictures] for cell in _cells(name, one)])
        for name, group in explained.items()
        if group[:pictures]
    ]
    if lines:
        draw_lines(path, lines)
    return bool(lines)


def _cells(name: str, explained: Explained) -> list[Cell]:
    unsafe = name.startswith("unsafe")
    return [Cell(explained.picture.image, unsafe), Cell(_heat(explained), False)]


def _heat(explained: Explained) -> bytes:
    """White where nothing, dark red where most of the reaction comes from."""
    strength = heat_map(explained, SQUARES).numpy()[..., None]
    colours = (1 - strength) * np.array([255, 255, 255]) + strength * np.array([140, 20, 10])
    buffer = io.BytesIO()
    Image.fromarray(colours.astype(np.uint8)).resize((96, 96), Image.Resampling.NEAREST).save(buffer, "PNG")
    return buffer.getvalue()
