"""A Gaussian blur, as wide relative to the picture whatever its size."""

from __future__ import annotations

from PIL import Image, ImageFilter


def blur(picture: Image.Image, radius: float) -> Image.Image:
    """`radius` is in pixels of a picture 64 pixels wide."""
    return picture.filter(ImageFilter.GaussianBlur(radius * max(picture.size) / 64))
