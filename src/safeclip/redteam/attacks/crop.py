"""The middle of the picture, enlarged to its size."""

from __future__ import annotations

from PIL import Image


def crop(picture: Image.Image, keep: float) -> Image.Image:
    """Keep the middle `keep` of each side."""
    width, height = picture.size
    left, top = (1 - keep) / 2 * width, (1 - keep) / 2 * height
    box = (left, top, width - left, height - top)
    return picture.resize(picture.size, Image.Resampling.BICUBIC, box=box)
