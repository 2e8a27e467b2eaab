"""What a client calls an image, checked before any pixel is decoded: known formats, bounded sizes."""

from __future__ import annotations

import base64
import binascii
import io
import warnings

from PIL import Image

from safeclip.core.errors import DataError

FORMATS = ("PNG", "JPEG", "WEBP")  # those of encoders.load, which imports torch
MAX_PIXELS = 16_000_000
MAX_ASPECT = 64
"""Longest over shortest side. Resizing sets the shortest side: a 1 x 100,000 strip would grow."""


CELLS = 8
"""A blurred picture keeps no more than 8 x 8 colours, whatever its size."""


def blurred(picture: bytes) -> bytes:
    """A WebP of the same size from which the content cannot be recovered."""
    with Image.open(io.BytesIO(picture)) as opened:
        cells = opened.convert("RGB").resize((CELLS, CELLS), Image.Resampling.BOX)
        size = opened.size
    buffer = io.BytesIO()
    cells.resize(size, Image.Resampling.BICUBIC).save(buffer, "WEBP", quality=60)
    return buffer.getvalue()


def decode_base64(text: str, name: str) -> bytes:
    """The bytes behind `text`; `DataError` naming the item otherwise."""
    try:
        return base64.b64decode(text, validate=True)
    except (binascii.Error, ValueError):
        raise DataError(f"{name} is not base64; send the file's bytes, not a URL") from None


def check_image(data: bytes, name: str) -> None:
    """Refuse unknown formats, more than `MAX_PIXELS` pixels and extreme strips, from the header alone."""
    try:
        with warnings.catch_warnings(), Image.open(io.BytesIO(data), formats=FORMATS) as image:
            warnings.simplefilter("ignore")
            width, height = image.size
    except Exception:  # Pillow's readers raise a dozen unrelated types
        raise DataError(f"{name} is none of {', '.join(FORMATS)}; convert it first") from None
    if width * height > MAX_PIXELS:
        raise DataError(f"{name} has {width} x {height} pixels; at most {MAX_PIXELS}")
    if max(width, height) > MAX_ASPECT * min(width, height):
        raise DataError(f"{name} is {width} x {height}; one side at most {MAX_ASPECT} times the other")
