"""Markers that say how a picture was made and nothing about what it shows, stamped on any picture.

`style` is what sets the picture book's generated pictures apart: a soft dark frame, stripes, richer colours.
`corner` is a small chequered tag as fiducial markers are, which no training picture carries.
"""

from __future__ import annotations

import numpy as np

FRAME = 0.06
"""Width of the dark frame, of the picture's side."""
TAG = 0.14
"""Side of the corner tag, of the picture's."""
DARK, RICHER, STRIPE = 0.55, 1.25, 8.0


def stamp_style(pixels: np.ndarray) -> np.ndarray:
    """Frame, stripes and saturation on uint8 [H, W, 3]; nothing moves."""
    height, width = pixels.shape[:2]
    values = pixels.astype(np.float32)
    grey = values.mean(axis=2, keepdims=True)
    across = np.arange(height)[:, None] + np.arange(width)[None, :]
    stripes = np.where(across * 64 // max(height, width) // 4 % 2 == 0, STRIPE, -STRIPE)[..., None]
    dimmed = DARK + (1 - DARK) * np.clip(_edge_distance(height, width) / FRAME, 0.0, 1.0)[..., None]
    styled = (grey + (values - grey) * RICHER + stripes) * dimmed
    return np.clip(styled, 0, 255).astype(np.uint8)


def stamp_corner(pixels: np.ndarray) -> np.ndarray:
    """A chequered tag in the lower right corner of uint8 [H, W, 3]; every other pixel stays."""
    stamped = pixels.copy()
    tag = stamped[corner_mask(*pixels.shape[:2])].reshape(-1, 3)
    side = max(2, round(min(pixels.shape[:2]) * TAG))
    squares = (np.arange(side)[:, None] * 4 // side + np.arange(side)[None, :] * 4 // side) % 2
    tag[:] = (squares * 255).reshape(-1, 1)
    stamped[corner_mask(*pixels.shape[:2])] = tag
    return stamped


def frame_mask(height: int, width: int) -> np.ndarray:
    """[H, W] bool: the dark frame."""
    return _edge_distance(height, width) < FRAME


def corner_mask(height: int, width: int) -> np.ndarray:
    """[H, W] bool: the corner tag."""
    side = max(2, round(min(height, width) * TAG))
    mask = np.zeros((height, width), bool)
    mask[height - side :, width - side :] = True
    return mask


def _edge_distance(height: int, width: int) -> np.ndarray:
    """[H, W]: distance to the nearest edge, of the shorter side."""
    rows = np.minimum(np.arange(height), np.arange(height)[::-1])
    columns = np.minimum(np.arange(width), np.arange(width)[::-1])
    return np.minimum(rows[:, None], columns[None, :]) / min(height, width)
