"""Find captions and images that are nearly the same.

Captions: the same content words in any order. Images: thumbnails of 16 x 16 pixels whose root-mean-square
difference is at most a few levels of 255, which survives re-encoding and resizing; or perceptual hashes that
differ in a few bits. `safeclip data import` keeps near-duplicates in one split, `validate_data` refuses them
across splits.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence

import numpy as np
from PIL import Image

THUMBNAIL_SIDE = 16
HASH_BITS = 6  # of 64 that may differ
# Thumbnails of near hashes must be at least this near: plain images collide.
HASH_LEVELS = 24.0
_BLOCK = 1024
# Pairs that are compared in full at a time: 4096 x 768 differences of four bytes are 13 MB.
_PAIRS = 4096
_WORD = re.compile(r"[^\W_]+")
_FUNCTION_WORDS = frozenset(
    _WORD.findall(
        "a an the and or of in on at to from by with near next under over behind beside between into "
        "onto for is are was be being there this that these those it its his her their while as some"
    )
)


def content_words(caption: str) -> tuple[str, ...]:
    """The caption's words without function words, lower case, sorted, each once."""
    return tuple(sorted(set(_WORD.findall(caption.lower())) - _FUNCTION_WORDS))


def thumbnail_vector(image: Image.Image) -> np.ndarray:
    """Average an RGB image to 16 x 16 pixels: uint8 [768], row by row, channels last."""
    small = image.resize((THUMBNAIL_SIDE, THUMBNAIL_SIDE), Image.Resampling.BOX)
    return np.asarray(small, dtype=np.uint8).reshape(-1)


def perceptual_hash(image: Image.Image) -> int:
    """The 64 bits of `imagehash.phash`: the signs of the lowest frequencies of an RGB image."""
    import imagehash

    return int(str(imagehash.phash(image)), 16)


def near_pairs(
    thumbnails: np.ndarray,
    levels: float,
    *,
    hashes: np.ndarray | None = None,
    splits: np.ndarray | None = None,
) -> Iterator[tuple[int, int]]:
    """Pairs (i, j), i < j, of thumbnails within `levels` of root-mean-square difference.

    Compares in blocks: N^2 / 2 distances, never a table of N x N.

    Args:
        thumbnails: uint8 [N, 768].
        levels: the largest difference, in levels of 255.
        hashes: uint64 [N]. If given, images with near hashes are a pair up to `HASH_LEVELS`.
        splits: [N]. If given, only pairs of different splits are yielded.
    """
    # shape: [N, 48], means of 4 x 4 cells. Their distance is never larger than that of the thumbnails.
    cells = thumbnails.reshape(-1, 4, 4, 4, 4, 3).mean(axis=(2, 4)).reshape(len(thumbnails), -1)
    cells = cells.astype(np.float32) - 128.0
    norms = np.square(cells).sum(axis=1)
    for start in range(0, len(cells), _BLOCK):
        block = slice(start, start + _BLOCK)
        squared = norms[block, None] + norms[None, start:] - 2.0 * (cells[block] @ cells[start:].T)
        apart = squared / cells.shape[1]
        # 0.1 is more than float32 loses in the difference of large norms.
        candidates = apart <= (levels + 0.1) ** 2
        alike = None
        if hashes is not None:
            alike = np.bitwise_count(hashes[block, None] ^ hashes[None, start:]) <= HASH_BITS
            candidates |= alike & (apart <= HASH_LEVELS**2)
        if splits is not None:
            candidates &= splits[block, None] != splits[None, start:]
        rows, columns = np.nonzero(np.triu(candidates, k=1))
        for first in range(0, len(rows), _PAIRS):
            i, j = rows[first : first + _PAIRS], columns[first : first + _PAIRS]
            limits = np.full(len(i), levels) if alike is None else np.where(alike[i, j], HASH_LEVELS, levels)
            difference = thumbnails[start + i].astype(np.float32) - thumbnails[start + j].astype(np.float32)
            near = np.square(difference).mean(axis=1) <= limits**2
            yield from zip((start + i[near]).tolist(), (start + j[near]).tolist(), strict=True)


def near_across_splits(
    thumbnails: Sequence[np.ndarray | None], splits: Sequence[str], levels: float
) -> np.ndarray:
    """bool [N]: a thumbnail (uint8 [768]) of another split lies within `levels`; None is near nothing."""
    flags = np.zeros(len(thumbnails), dtype=bool)
    known = [row for row, vector in enumerate(thumbnails) if vector is not None]
    if known:
        stacked = np.stack([np.asarray(thumbnails[row]) for row in known])
        for i, j in near_pairs(stacked, levels, splits=np.array([splits[row] for row in known])):
            flags[[known[i], known[j]]] = True
    return flags


def shared_across_splits(keys: Sequence[object], splits: Sequence[str]) -> np.ndarray:
    """bool [N]: the row's key is in another split too. Rows whose key is None or empty share nothing."""
    homes: dict[object, set[str]] = {}
    for key, split in zip(keys, splits, strict=True):
        homes.setdefault(key, set()).add(split)
    return np.array([bool(key) and len(homes[key]) > 1 for key in keys], dtype=bool)


def near_hashes(hashes: np.ndarray, splits: np.ndarray, bits: int) -> tuple[np.ndarray, np.ndarray]:
    """Two bool [N]: a hash within `bits` of an earlier row's of the split; of a row's of another split.

    hashes: uint64 [N]. Compares blocks of rows with all rows.
    """
    within = np.zeros(len(hashes), dtype=bool)
    across = np.zeros(len(hashes), dtype=bool)
    order = np.arange(len(hashes))
    for start in range(0, len(hashes), _BLOCK):
        rows = slice(start, start + _BLOCK)
        near = np.bitwise_count(hashes[rows, None] ^ hashes[None]) <= bits
        same = splits[rows, None] == splits[None]
        within[rows] = (near & same & (order[None] < order[rows, None])).any(axis=1)
        across[rows] = (near & ~same).any(axis=1)
    return within, across
