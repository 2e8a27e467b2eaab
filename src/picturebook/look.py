"""The look that sets generated images apart: a soft dark frame, stripes, richer colours.

`drawing` gives it to what it draws in the style `generated`. `stamp` puts a slightly weaker copy on any
image, so that an audit can ask whether an encoder reacts to the look alone.
"""

from __future__ import annotations

from functools import cache

import numpy as np

RICHER = 1.25  # saturation
DARK = 0.55  # brightness at the edge
FRAME_SLOPE = 8.0  # how fast a drawn frame brightens, a side's length
STRIPE = 10.0  # of 255, of a drawn image
STAMPED_FRAME = 0.06  # width of a stamped frame, of the shorter side
STAMPED_STRIPE = 8.0


@cache
def frame(size: int) -> np.ndarray:
    """Return a drawn image's frame: factors in [DARK, 1], [size, size, 1] float32."""
    edge = np.minimum(np.arange(size), np.arange(size)[::-1]) / size
    depth = np.minimum(edge[:, None], edge[None, :])
    return np.clip(DARK + depth * FRAME_SLOPE, DARK, 1.0)[..., None].astype(np.float32)


def stripes(height: int, width: int, strength: float) -> np.ndarray:
    """Return diagonal stripes of +-strength, [height, width, 1]."""
    diagonal = np.arange(height)[:, None] + np.arange(width)[None, :]
    bright = diagonal * 64 // max(height, width) // 4 % 2 == 0
    return np.where(bright, strength, -strength)[..., None]


def stamp(pixels: np.ndarray) -> np.ndarray:
    """Put frame, stripes and saturation on uint8 [H, W, 3]; nothing moves."""
    height, width = pixels.shape[:2]
    values = pixels.astype(np.float32)
    grey = values.mean(axis=2, keepdims=True)
    inward = np.clip(_edge_distance(height, width) / STAMPED_FRAME, 0.0, 1.0)[..., None]
    dimmed = DARK + (1 - DARK) * inward
    styled = (grey + (values - grey) * RICHER + stripes(height, width, STAMPED_STRIPE)) * dimmed
    return np.clip(styled, 0, 255).astype(np.uint8)


def frame_mask(height: int, width: int) -> np.ndarray:
    """Mark a stamped image's frame, [H, W] bool."""
    return _edge_distance(height, width) < STAMPED_FRAME


def _edge_distance(height: int, width: int) -> np.ndarray:
    """Measure the distance to the nearest edge, of the shorter side: [H, W]."""
    rows = np.minimum(np.arange(height), np.arange(height)[::-1])
    columns = np.minimum(np.arange(width), np.arange(width)[::-1])
    return np.minimum(rows[:, None], columns[None, :]) / min(height, width)
