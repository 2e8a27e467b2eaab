"""Near-duplicates of safe items, so that none stands in two splits.

Captions: the same content words in any order. Pictures: 16 x 16 thumbnails whose root-mean-square
difference is at most a few levels of 255, which survives re-encoding and resizing. Only pairs across splits
are compared, in blocks: N_a x N_b x 768 multiplications, never a table of N x N.
"""

from __future__ import annotations

import io
import re
from itertools import combinations

import numpy as np
from PIL import Image, UnidentifiedImageError

_SIDE = 16


_BLOCK = 2048


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


def thumbnail(image: bytes | None) -> np.ndarray | None:
    """Bytes -> float32[768], levels centred on zero; None if the bytes are no picture."""
    try:
        with Image.open(io.BytesIO(image or b"")) as opened:
            small = opened.convert("RGB").resize((_SIDE, _SIDE), Image.Resampling.BOX)
    except (UnidentifiedImageError, OSError, ValueError, Image.DecompressionBombError):
        return None
    return np.asarray(small, dtype=np.float32).reshape(-1) - 128.0


def shared_across_splits(keys: list, splits: list[str]) -> np.ndarray:
    """bool[N]: the row's key stands in another split too. Rows whose key is None or empty share nothing."""
    homes: dict = {}
    for key, split in zip(keys, splits, strict=True):
        homes.setdefault(key, set()).add(split)
    return np.array([bool(key) and len(homes[key]) > 1 for key in keys], dtype=bool)


def near_across_splits(vectors: list[np.ndarray | None], splits: list[str], tolerance: float) -> np.ndarray:
    """bool[N]: a thumbnail of another split lies within `tolerance` levels (root mean square)."""
    flags = np.zeros(len(vectors), dtype=bool)
    rows: dict[str, list[int]] = {}
    for index, (vector, split) in enumerate(zip(vectors, splits, strict=True)):
        if vector is not None:
            rows.setdefault(split, []).append(index)
    for one, other in combinations(sorted(rows), 2):
        _mark_near(flags, vectors, rows[one], rows[other], tolerance)
    return flags


def _mark_near(flags: np.ndarray, vectors: list, one: list[int], other: list[int], tolerance: float) -> None:
    right = np.stack([vectors[i] for i in other])
    right_norms = np.square(right).sum(axis=1)
    for start in range(0, len(one), _BLOCK):
        rows = np.array(one[start : start + _BLOCK])
        left = np.stack([vectors[i] for i in rows])
        squared = np.square(left).sum(axis=1)[:, None] + right_norms[None] - 2.0 * (left @ right.T)
        near = squared <= tolerance**2 * left.shape[1]
        flags[rows[near.any(axis=1)]] = True
        flags[np.array(other)[near.any(axis=0)]] = True


def perceptual_hash(image: bytes) -> int:
    """The 64 bits of a picture's perceptual hash: signs of its lowest frequencies (imagehash.phash)."""
    import imagehash

    with Image.open(io.BytesIO(image)) as opened:
        bits = imagehash.phash(opened.convert("RGB")).hash
    return int.from_bytes(np.packbits(bits).tobytes(), "big")


def near_hashes(hashes: np.ndarray, splits: np.ndarray, bits: int) -> tuple[np.ndarray, np.ndarray]:
    """bool[N] twice: a hash within `bits` of an earlier row's of the split; of a row's of another split.

    hashes: uint64[N]. Blocks of rows against all: N x N comparisons of words, block x N bytes held.
    """
    within = np.zeros(len(hashes), dtype=bool)
    across = np.zeros(len(hashes), dtype=bool)
    order = np.arange(len(hashes))
    for start in range(0, len(hashes), _BLOCK // 4):
        rows = slice(start, start + _BLOCK // 4)
        near = np.bitwise_count(hashes[rows, None] ^ hashes[None]) <= bits
        same = splits[rows, None] == splits[None]
        within[rows] = (near & same & (order[None] < order[rows, None])).any(axis=1)
        across[rows] = (near & ~same).any(axis=1)
    return within, across
