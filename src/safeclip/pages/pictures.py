"""Pictures inside a page. What may be unsafe is blurred in its pixels, not by a removable style."""

from __future__ import annotations

import base64
import io

from PIL import Image

_CELLS = 8  # a blurred picture keeps no more than 8 x 8 colours, whatever its size


def data_uri(png: bytes) -> str:
    """PNG bytes as an address that loads nothing."""
    return "data:image/png;base64," + base64.b64encode(png).decode("ascii")


def thumbnail(image: bytes, side: int = 96) -> str:
    """PNG or JPEG bytes -> data address of a PNG that fits in `side` x `side` pixels."""
    with Image.open(io.BytesIO(image)) as opened:
        picture = opened.convert("RGB")
    picture.thumbnail((side, side))
    return data_uri(_png(picture))


def blurred(image: bytes, side: int = 48) -> str:
    """PNG or JPEG bytes -> data address of a PNG from which the content cannot be recovered."""
    with Image.open(io.BytesIO(image)) as opened:
        cells = opened.convert("RGB").resize((_CELLS, _CELLS), Image.Resampling.BOX)
    return data_uri(_png(cells.resize((side, side), Image.Resampling.BICUBIC)))


def _png(picture: Image.Image) -> bytes:
    buffer = io.BytesIO()
    picture.save(buffer, format="PNG", optimize=True)
    return buffer.getvalue()
