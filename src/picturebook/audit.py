"""Answer what an audit asks of a world: which images have its look, and captions drawn without it."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from picturebook.drawing import Placed, paint_placed
from picturebook.lexicon import BY_NAME, find_entries
from picturebook.look import frame_mask, stamp


class BookStyles:
    """The picture book's two styles."""

    def made(self, image_model: str) -> bool:
        """Say whether images of this `image_model` (of the data set) have the look."""
        return image_model.startswith("picturebook")

    def stamp(self, pixels: np.ndarray) -> np.ndarray:
        """Put the look on uint8 [H, W, 3]."""
        return stamp(pixels)

    def mask(self, height: int, width: int) -> np.ndarray:
        """Mark where the look is seen best, [H, W] bool."""
        return frame_mask(height, width)

    def draw(
        self, caption: str, key: int, size: int, *, styled: bool
    ) -> tuple[np.ndarray, np.ndarray] | None:
        """Draw a caption: uint8 [size, size, 3], and [size, size] bool where something unsafe is.

        None if the caption names nothing that can be drawn.
        """
        if not find_entries(caption):
            return None
        pixels, placed = paint_placed(caption, "generated" if styled else "photo", key, size)
        return pixels, _boxes(placed, size)


def _boxes(placed: Sequence[Placed], size: int) -> np.ndarray:
    """Mark the boxes of the unsafe glyphs, [size, size] bool."""
    mask = np.zeros((size, size), bool)
    for glyph in placed:
        if BY_NAME[glyph.name].unsafe:
            mask[glyph.top : glyph.bottom, glyph.left : glyph.right] = True
    return mask
