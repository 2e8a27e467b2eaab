"""Measure rows for the contract: facts of each image, of each text, and what splits share.

Images are replaced by facts shard by shard, so that one shard of them is in memory at a time.
"""

from __future__ import annotations

import hashlib
import io
from collections.abc import Collection

import numpy as np
import pandas as pd
import pyarrow as pa
from PIL import Image, UnidentifiedImageError

from safeclip.core.guard import Guard
from safeclip.core.images import read_rgb
from safeclip.core.text import ordered_overlap
from safeclip.validation.near_duplicates import (
    content_words,
    near_across_splits,
    perceptual_hash,
    shared_across_splits,
    thumbnail_vector,
)

FORMATS = ("PNG", "JPEG")
MAX_PIXELS = 50_000_000  # a larger one is refused before it is decoded


def image_fault(image: bytes, min_side: int) -> str | None:
    """Say why these bytes are no usable PNG or JPEG with sides of at least `min_side` pixels, or None."""
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


def image_facts(images: pa.Table, min_side: int) -> pd.DataFrame:
    """Measure IMAGES rows: one row each, with a digest in place of each image.

    `image_SIDE_fault`: None if it is usable or missing. `image_safe_thumbnail` (uint8 [768]) and
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
        facts["image_safe_thumbnail"] = thumbnail_vector(read_rgb(row["image_safe"]))
    if _usable(facts, "generated"):
        facts["image_generated_hash"] = f"{perceptual_hash(read_rgb(row['image_generated'])):016x}"
    return facts


def _usable(facts: dict[str, object], side: str) -> bool:
    return facts[f"image_{side}"] is not None and facts[f"image_{side}_fault"] is None


STATES = {
    "both unsafe": ("unsafe", "unsafe"),
    "only text unsafe": ("unsafe", "safe"),
    "only image unsafe": ("safe", "unsafe"),
    "neither unsafe": ("safe", "safe"),
}
"""The four label states: (text_label, image_label)."""


def join_rows(captions: pa.Table, images: pd.DataFrame, labels: pa.Table) -> pd.DataFrame:
    """Captions with their `image_facts` and labels by id; missing is null, what is repeated repeats."""
    frame = captions.to_pandas(integer_object_nulls=True)
    for part in (images, labels.to_pandas()):
        frame = frame.merge(part, on="id", how="left", sort=False)
    return frame.sort_values("id", kind="stable", ignore_index=True)


def measure(rows: pd.DataFrame, *, guard: Guard, categories: Collection[str]) -> pd.DataFrame:
    """Add what each row's texts show by themselves to the joined columns; nulls stay null."""
    frame = rows.copy()
    safe, generated = _texts(frame["caption_safe"]), _texts(frame["caption_generated"])
    tags = [tuple(value) if hasattr(value, "__iter__") else None for value in frame["categories"]]
    frame["safe_words"] = _word_counts(safe)
    frame["generated_words"] = _word_counts(generated)
    frame["similarity"] = [
        None if a is None or b is None else ordered_overlap(a, b)
        for a, b in zip(safe, generated, strict=True)
    ]
    frame["similarity"] = frame["similarity"].astype("float64")
    frame["earlier_same_caption"] = _earlier(safe, frame["split"])
    frame["categories_known"] = [t is None or (bool(t) and set(t) <= set(categories)) for t in tags]
    frame["guard_clear"] = [_clear(guard, *row) for row in zip(safe, generated, tags, strict=True)]
    _add_shares(frame, tags, categories)
    return frame


def measure_leaks(rows: pd.DataFrame, *, near_levels: float) -> pd.DataFrame:
    """Add, as booleans, what each row shares with rows of other splits."""
    frame = rows.copy()
    safe = _texts(frame["caption_safe"])
    splits = [str(split) for split in frame["split"]]
    digests = [value if isinstance(value, str) else None for value in frame["image_safe"]]
    thumbnails = [value if isinstance(value, np.ndarray) else None for value in frame["image_safe_thumbnail"]]
    frame["caption_in_other_split"] = shared_across_splits([c and c.casefold() for c in safe], splits)
    frame["words_in_other_split"] = shared_across_splits([c and content_words(c) for c in safe], splits)
    frame["image_in_other_split"] = shared_across_splits(digests, splits)
    frame["near_image_in_other_split"] = near_across_splits(thumbnails, splits, near_levels)
    return frame


def _add_shares(frame: pd.DataFrame, tags: list[tuple | None], categories: Collection[str]) -> None:
    """0/1 columns whose mean is a share of rows."""
    frame["text_unsafe"] = (frame["text_label"] == "unsafe").astype("float64")
    frame["image_unsafe"] = (frame["image_label"] == "unsafe").astype("float64")
    for state, (text, image) in STATES.items():
        frame[state] = ((frame["text_label"] == text) & (frame["image_label"] == image)).astype("float64")
    for category in categories:
        frame[f"category {category}"] = [float(category in (t or ())) for t in tags]


def _texts(column: pd.Series) -> list[str | None]:
    return [value if isinstance(value, str) else None for value in column]


def _word_counts(texts: list[str | None]) -> pd.Series:
    return pd.Series([None if text is None else len(text.split()) for text in texts], dtype="float64")


def _earlier(safe: list[str | None], splits: pd.Series) -> list[int]:
    """Count, for each row, the earlier rows of its split with the same safe caption."""
    seen: dict[tuple[str, str], int] = {}
    counts = []
    for caption, split in zip(safe, splits, strict=True):
        key = (str(split), caption.casefold() if caption else "")
        counts.append(seen.get(key, 0) if caption else 0)
        seen[key] = seen.get(key, 0) + 1
    return counts


def _clear(guard: Guard, safe: str | None, generated: str | None, tags: tuple | None) -> bool:
    texts = [text for text in (safe, generated) if text is not None]
    if any(guard.trips(text, tags or ()) for text in texts):
        return False
    return safe is None or guard.allows(safe, tags or ())
