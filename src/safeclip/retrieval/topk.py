"""Exact top-k of a gallery, streamed in blocks: memory is queries x block, whatever the gallery's size.

The result equals a stable descending sort of all scores cut to k: among equal scores the lowest gallery
index wins. `torch.topk` alone does not promise that, so each block's selection is repaired where the k-th
score is shared, and put into index order before a stable sort by score.

Cost: Q*N*D multiply-adds and two passes over each block's scores, against a sort of Q*N for the plain way.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Protocol

import numpy as np
import torch
from torch import Tensor

from safeclip.errors import DataError


class Gallery(Protocol):
    """[N, D] float32 rows, read in slices: a tensor, an array, a memory map or a reader of your own."""

    @property
    def shape(self) -> tuple[int, ...]: ...

    def __getitem__(self, rows: slice, /) -> Tensor | np.ndarray: ...


@torch.no_grad()
def topk(
    queries: Tensor, gallery: Gallery, k: int, block: int = 8192, query_block: int = 1024
) -> tuple[Tensor, Tensor]:
    """The k best gallery rows of each query by inner product.

    queries [Q, D] and gallery [N, D], float32; cosines if both are l2-normalised. Returns scores [Q, K]
    float32, descending, and indices [Q, K] int64, with K = min(k, N).
    `DataError` for an empty gallery, shapes that do not match, k < 1 or values that are not finite.
    """
    _check(queries, gallery, k)
    parts = [_topk_streamed(chunk, gallery, k, block) for chunk in queries.split(query_block)]
    return torch.cat([part[0] for part in parts]), torch.cat([part[1] for part in parts])


def _topk_streamed(queries: Tensor, gallery: Gallery, k: int, block: int) -> tuple[Tensor, Tensor]:
    best_scores = queries.new_empty(len(queries), 0)
    best_indices = torch.empty(len(queries), 0, dtype=torch.long, device=queries.device)
    for start, rows in _blocks(gallery, block, queries.device):
        scores, indices = _topk_of_block(queries @ rows.T, k)
        # What is kept has lower indices than this block, so a stable sort keeps equal scores in index order.
        best_scores = torch.cat([best_scores, scores], dim=1)
        best_indices = torch.cat([best_indices, indices + start], dim=1)
        best_scores, best_indices = _by_score(best_scores, best_indices, k)
    return best_scores, best_indices


def _blocks(gallery: Gallery, block: int, device: torch.device) -> Iterator[tuple[int, Tensor]]:
    for start in range(0, gallery.shape[0], block):
        rows = gallery[start : start + block]
        if isinstance(rows, np.ndarray):
            # A copy: torch warns about read-only memory, and a memory map is read from disk here anyway.
            rows = torch.from_numpy(np.array(rows, dtype=np.float32))
        rows = rows.to(device)
        if not _all_finite(rows):
            raise DataError(f"gallery rows {start} to {start + len(rows) - 1}: an embedding is not finite")
        yield start, rows


def _topk_of_block(scores: Tensor, k: int) -> tuple[Tensor, Tensor]:
    """Exact top-k of scores [Q, B], lowest index first among equals."""
    k = min(k, scores.shape[1])
    one_more = min(k + 1, scores.shape[1])  # its score tells whether others share the k-th
    best, where = torch.topk(scores, one_more, dim=1)
    indices, order = where[:, :k].sort(dim=1)
    values, indices = _by_score(best[:, :k].gather(1, order), indices, k)
    shared = best[:, -1] == best[:, k - 1] if one_more > k else torch.zeros(len(scores), dtype=torch.bool)
    if shared.any():
        full, order = scores[shared].sort(dim=1, descending=True, stable=True)
        values[shared], indices[shared] = full[:, :k], order[:, :k]
    return values, indices


def _by_score(scores: Tensor, indices: Tensor, k: int) -> tuple[Tensor, Tensor]:
    scores, order = scores.sort(dim=1, descending=True, stable=True)
    return scores[:, :k], indices.gather(1, order[:, :k])


def _all_finite(rows: Tensor) -> bool:
    # A sum is finite only if every term is (float32 sums of unit vectors cannot overflow).
    return bool(torch.isfinite(rows.sum())) or bool(torch.isfinite(rows).all())


def _check(queries: Tensor, gallery: Gallery, k: int) -> None:
    if k < 1:
        raise DataError(f"k = {k}: ask for at least one neighbour")
    if queries.ndim != 2 or len(gallery.shape) != 2 or queries.shape[1] != gallery.shape[1]:
        shapes = f"{tuple(queries.shape)} and {tuple(gallery.shape)}"
        raise DataError(f"queries and gallery of shapes {shapes} do not fit; both must be [rows, dimension]")
    if gallery.shape[0] == 0:
        raise DataError("the gallery is empty; there is nothing to retrieve")
    if not _all_finite(queries):
        raise DataError("a query embedding is not finite; check the model's weights")
