"""Decode, shrink, blur and encode images. Imports Pillow alone: the packaged service includes this module."""

from __future__ import annotations

import io
from typing import Any

from PIL import Image

BLUR_CELLS = 8


def read_rgb(data: bytes) -> Image.Image:
    """Decode an image file to RGB. Raises what Pillow raises on bytes that are no image."""
    with Image.open(io.BytesIO(data)) as image:
        return image.convert("RGB")


def shrink(data: bytes, side: int) -> Image.Image:
    """Decode to RGB, scaled down to fit in `side` x `side` pixels; a smaller image keeps its size."""
    image = read_rgb(data)
    image.thumbnail((side, side))
    return image


def blur(image: Image.Image, size: tuple[int, int], cells: int = BLUR_CELLS) -> Image.Image:
    """Average an RGB image to `cells` x `cells` colours and scale those to `size` (width, height).

    The content cannot be recovered: no more than `cells`^2 colours of it are left.
    """
    averaged = image.resize((cells, cells), Image.Resampling.BOX)
    return averaged.resize(size, Image.Resampling.BICUBIC)


def encode(image: Image.Image, file_format: str, **options: Any) -> bytes:
    """The bytes of an image file; `options` are those of Pillow's writer, such as `quality`."""
    buffer = io.BytesIO()
    image.save(buffer, file_format, **options)
    return buffer.getvalue()
