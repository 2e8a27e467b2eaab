"""Choose splits before synthesis, near-duplicates in one split; find captions that are likely mislabels.

Rows are joined into groups when their captions share all content words, or when their images are near:
within `levels` of root-mean-square difference of the 16 x 16 thumbnails (what validate_data measures), or
within a few bits of the perceptual hash and roughly alike besides. A group's split is read off a digest of
its smallest id, so that adding images later moves no other group.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from scipy.sparse import coo_array
from scipy.sparse.csgraph import connected_components

from safeclip.core.records import SPLITS
from safeclip.core.taxonomy import Taxonomy
from safeclip.encoders.embed import embed_images, embed_texts
from safeclip.encoders.load import Encoder
from safeclip.validation.near_duplicates import near_pairs

OTHERS = 200  # captions that each image is compared with
# Share of them that may be nearer: finds 0.90 of swapped captions, and accuses none of 400 true ones.
NEARER = 0.1
MOST = 0.25  # a larger share of suspects says something of the encoder, not of the data
_IMAGES_AT_ONCE = 256
_ARTICLES = ("a ", "an ", "the ")


def join_groups(
    keys: Sequence[object], thumbnails: np.ndarray, hashes: np.ndarray, levels: float
) -> np.ndarray:
    """Join rows with equal keys or near images; returns int [N], the group of each row.

    thumbnails: uint8 [N, 768]; hashes: uint64 [N]; levels: as in `near_pairs`.
    """
    count = len(keys)
    first: dict[object, int] = {}
    pairs = [(first.setdefault(key, row), row) for row, key in enumerate(keys)]
    pairs += near_pairs(thumbnails, levels, hashes=hashes)
    rows, columns = np.array(pairs, dtype=np.int64).reshape(-1, 2).T
    edges = coo_array((np.ones(len(rows), dtype=np.int8), (rows, columns)), shape=(count, count))
    groups: np.ndarray = connected_components(edges, directed=False)[1]
    return groups


def assign_splits(ids: Sequence[str], groups: np.ndarray, shares: dict[str, float], seed: int) -> list[str]:
    """Return the split of each row; `shares` is val's and test's part of the groups, the rest is train."""
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


def misfits(encoder: Encoder, images: Sequence[Path], captions: Sequence[str], seed: int) -> np.ndarray:
    """Flag rows whose image is nearer to more than a tenth of `OTHERS` other captions; returns bool [N]."""
    count = len(images)
    if count < 2:
        return np.zeros(count, dtype=bool)
    blocks = [images[start : start + _IMAGES_AT_ONCE] for start in range(0, count, _IMAGES_AT_ONCE)]
    # shape: [N, D], l2-normalised, as are the texts
    vectors = torch.cat([embed_images(encoder, [path.read_bytes() for path in block]) for block in blocks])
    texts = embed_texts(encoder, captions)
    matching = (vectors * texts).sum(1)
    shifts = np.random.default_rng(seed).permutation(count - 1)[:OTHERS] + 1
    rows = torch.arange(count)
    nearer = torch.zeros(count)
    for shift in shifts.tolist():
        nearer += (vectors * texts[(rows + shift) % count]).sum(1) > matching
    return (nearer > NEARER * len(shifts)).numpy()


class UnsafeWords:
    """Finds the taxonomy's phrases in captions, by whole words."""

    def __init__(self, taxonomy: Taxonomy) -> None:
        self._categories = {_bare(phrase.text): phrase.categories[0] for phrase in taxonomy.phrases}
        longest_first = sorted(self._categories, key=lambda text: (-len(text), text))
        self._pattern = re.compile(rf"\b(?:{'|'.join(map(re.escape, longest_first))})\b")

    def category(self, caption: str) -> str | None:
        """Return the category of the first phrase that the caption names, or None."""
        match = self._pattern.search(caption.casefold())
        return self._categories[match.group()] if match else None


def _bare(phrase: str) -> str:
    """The phrase without its article."""
    text = phrase.casefold()
    for article in _ARTICLES:
        text = text.removeprefix(article)
    return text
