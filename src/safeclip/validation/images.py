"""What validation needs to know of pictures, so that one shard of them is held at a time and never all."""

from __future__ import annotations

import hashlib
import io

import pandas as pd
import pyarrow as pa
from PIL import Image, UnidentifiedImageError

from safeclip.validation.duplicates import perceptual_hash, thumbnail

FORMATS = ("PNG", "JPEG")
MAX_PIXELS = 50_000_000  # a larger one is refused before it is decoded


def image_fault(image: bytes, min_side: int) -> str | None:
    """Why these bytes are no usable PNG or JPEG with sides of at least `min_side` pixels, or None."""
    try:
        with Image.open(io.BytesIO(image), formats=FORMATS) as opened:
            width, height = opened.size
            if width * height > MAX_PIXELS:
                return f"{width} x {height} pixels is too large"
            bands = opened.convert("RGB").split()
            plain = all(low == high for low, high in (band.getextrema() for band in bands))
    except (UnidentifiedImageError, OSError, ValueError, SyntaxError, Image.DecompressionBombError):
        return "does not decode as PNG or JPEG"
    if min(width, height) < min_side:
        return f"{width} x {height} pixels is too small"
    return "is of one colour" if plain else None


def picture_facts(images: pa.Table, min_side: int) -> pd.DataFrame:
    """IMAGES rows -> one row each, a digest in place of each picture.

    `image_SIDE_fault`: None if it is usable or missing. `image_safe_thumbnail` (float32[768]) and
    `image_generated_hash` (64 bits in hexadecimal): None if it is not usable.
    """
    return pd.DataFrame([_facts(row, min_side) for row in images.to_pylist()], columns=list(_COLUMNS))


_COLUMNS = (
    "id", "image_model", "image_safe", "image_safe_fault", "image_safe_thumbnail",
    "image_generated", "image_generated_fault", "image_generated_hash",
)  # fmt: skip


def _facts(row: dict, min_side: int) -> dict[str, object]:
    facts: dict[str, object] = {"id": row["id"], "image_model": row["image_model"]}
    for side in ("safe", "generated"):
        image = row[f"image_{side}"]
        facts[f"image_{side}"] = None if image is None else hashlib.sha256(image).hexdigest()
        facts[f"image_{side}_fault"] = None if image is None else image_fault(image, min_side)
    if _usable(facts, "safe"):
        facts["image_safe_thumbnail"] = thumbnail(row["image_safe"])
    if _usable(facts, "generated"):
        facts["image_generated_hash"] = f"{perceptual_hash(row['image_generated']):016x}"
    return facts


def _usable(facts: dict[str, object], side: str) -> bool:
    return facts[f"image_{side}"] is not None and facts[f"image_{side}_fault"] is None
