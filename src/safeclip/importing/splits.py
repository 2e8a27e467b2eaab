"""Splits before synthesis: whatever looks or reads alike stands in one split.

Rows are joined into groups when their captions share all content words, or when their pictures are near:
within `levels` of root-mean-square difference of the 16 x 16 thumbnails (what validate_data measures), or
within a few bits of the perceptual hash and roughly alike besides. A group's split is read off a digest of
its smallest id, so that adding pictures later moves no other group.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Sequence

import numpy as np
from scipy.sparse import coo_array
from scipy.sparse.csgraph import connected_components

from safeclip.records import SPLITS

HASH_BITS = 6  # of 64 that may differ
HASH_LEVELS = 24.0  # thumbnails of equal hashes must be this near: plain pictures collide
_BLOCK = 1024


def join_groups(
    keys: Sequence[object], thumbnails: np.ndarray, hashes: np.ndarray, levels: float
) -> np.ndarray:
    """int [N]: the group of each row. keys: equal ones belong together; thumbnails: uint8 [N, 768];
    hashes: uint64 [N]."""
    count = len(keys)
    first: dict[object, int] = {}
    pairs = [(first.setdefault(key, row), row) for row, key in enumerate(keys)]
    pairs += near_pairs(thumbnails, hashes, levels)
    rows, columns = np.array(pairs, dtype=np.int64).reshape(-1, 2).T
    edges = coo_array((np.ones(len(rows), dtype=np.int8), (rows, columns)), shape=(count, count))
    groups: np.ndarray = connected_components(edges, directed=False)[1]
    return groups


def near_pairs(thumbnails: np.ndarray, hashes: np.ndarray, levels: float) -> Iterator[tuple[int, int]]:
    """Pairs (i, j), i < j, of near pictures, in blocks: N^2 / 2 distances, never a table of N x N.

    Means of 4 x 4 cells are compared first: their distance is never larger than the thumbnails'.
    """
    cells = thumbnails.reshape(-1, 4, 4, 4, 4, 3).mean(axis=(2, 4)).reshape(len(thumbnails), -1)
    cells = cells.astype(np.float32) - 128.0
    norms = np.square(cells).sum(axis=1)
    for start in range(0, len(cells), _BLOCK):
        block = slice(start, start + _BLOCK)
        squared = norms[block, None] + norms[None, start:] - 2.0 * (cells[block] @ cells[start:].T)
        apart = squared / cells.shape[1]
        alike = np.bitwise_count(hashes[block, None] ^ hashes[None, start:]) <= HASH_BITS
        for i, j in np.argwhere((apart <= (levels + 0.1) ** 2) | (alike & (apart <= HASH_LEVELS**2))):
            if i < j and _near(
                thumbnails[start + i], thumbnails[start + j], HASH_LEVELS if alike[i, j] else levels
            ):
                yield int(start + i), int(start + j)


def _near(one: np.ndarray, other: np.ndarray, levels: float) -> bool:
    difference = one.astype(np.float32) - other.astype(np.float32)
    return bool(np.square(difference).mean() <= levels**2)


def assign_splits(ids: Sequence[str], groups: np.ndarray, shares: dict[str, float], seed: int) -> list[str]:
    """The split of each row; `shares` gives val's and test's part of the groups, the rest is train."""
    smallest: dict[int, str] = {}
    for row_id, group in zip(ids, groups.tolist(), strict=True):
        smallest[group] = min(smallest.get(group, row_id), row_id)
    by_group = {group: _split(row_id, shares, seed) for group, row_id in smallest.items()}
    return [by_group[group] for group in groups.tolist()]


def _split(row_id: str, shares: dict[str, float], seed: int) -> str:
    digest = hashlib.sha256(f"{seed}:split:{row_id}".encode()).digest()
    point, edge = int.from_bytes(digest[:8], "big") / 2**64, 0.0
    for split in SPLITS[1:]:
        edge += shares[split]
        if point < edge:
            return split
    return SPLITS[0]
