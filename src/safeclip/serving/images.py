"""Check what a client sends as an image before any pixel is decoded: a known format, bounded sizes."""

from __future__ import annotations

import base64
import binascii
import io
import warnings

from PIL import Image

from safeclip.core.errors import DataError

# The formats of encoders.load, repeated because that module imports torch.
FORMATS = ("PNG", "JPEG", "WEBP")
MAX_PIXELS = 16_000_000
# Longest over shortest side. Resizing sets the shortest side: a strip of 1 x 100,000 pixels would grow.
MAX_ASPECT = 64


def decode_base64(text: str, name: str) -> bytes:
    """Decode the base64 of a file. Raises a `DataError` that calls the item `name`."""
    try:
        return base64.b64decode(text, validate=True)
    except (binascii.Error, ValueError):
        raise DataError(f"{name} is not base64; send the file's bytes, not a URL") from None


def check_image(data: bytes, name: str) -> None:
    """Refuse unknown formats, more than `MAX_PIXELS` pixels and extreme strips, from the header alone.

    Raises a `DataError` that calls the item `name`.
    """
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
