"""Decode what a client calls an image, safely: known formats only, pixels counted before any is decoded."""

from __future__ import annotations

import base64
import binascii
import io

from PIL import Image, UnidentifiedImageError

from safeclip.errors import DataError

FORMATS = ("PNG", "JPEG", "WEBP")  # those of encoders.load, which imports torch
MAX_PIXELS = 16_000_000


def decode_image(text: str, index: int) -> bytes:
    """Bytes of a readable image from base64 `text`; `DataError` naming item `index` otherwise."""
    try:
        data = base64.b64decode(text, validate=True)
    except (binascii.Error, ValueError):
        raise DataError(f"images[{index}] is not base64; send the file's bytes, not a URL") from None
    check_image(data, index)
    return data


def check_image(data: bytes, index: int) -> None:
    """Refuse unknown formats, more than `MAX_PIXELS` pixels and truncated files."""
    try:
        with Image.open(io.BytesIO(data), formats=FORMATS) as image:
            width, height = image.size
            if width * height > MAX_PIXELS:
                raise DataError(f"images[{index}] has {width} x {height} pixels; at most {MAX_PIXELS}")
            image.load()
    except (UnidentifiedImageError, Image.DecompressionBombError):
        raise DataError(f"images[{index}] is none of {', '.join(FORMATS)}; convert it first") from None
    except (OSError, SyntaxError, ValueError) as error:
        raise DataError(f"images[{index}] cannot be decoded ({error}); send the whole file") from None
