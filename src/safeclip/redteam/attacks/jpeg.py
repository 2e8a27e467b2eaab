"""Strong lossy compression."""

from __future__ import annotations

import io

from PIL import Image


def jpeg(picture: Image.Image, quality: int) -> Image.Image:
    """The picture after JPEG at `quality` (1 to 95)."""
    buffer = io.BytesIO()
    picture.save(buffer, "JPEG", quality=quality)
    with Image.open(buffer) as squeezed:
        return squeezed.convert("RGB")
