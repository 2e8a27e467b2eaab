"""Exact top-k of a gallery, streamed in blocks: memory is queries x block, whatever the gallery's size.

The result equals a stable descending sort of all scores cut to k: among equal scores the lowest gallery
index wins. A score is the float32 dot product summed in one fixed order, so that equal rows score equally
wherever they stand and the answer does not depend on `block`.

Two steps a block: `screen.py` multiplies everything in a fast type and leaves the few rows that may still
reach the k best, with a proof that it leaves them all; only those are scored in float32 and merged with what
is kept. Cost: Q*N*D multiply-adds in the screen's type, one comparison of each product, and the float32
scores of some k (1 + ln(N / 2048)) rows a query and of those that the bound cannot tell apart.
"""

from __future__ import annotations

import warnings
from collections.abc import Iterator
from typing import Protocol

import numpy as np
import torch
from torch import Tensor

from safeclip.errors import DataError
from safeclip.retrieval.screen import Screen

warnings.filterwarnings("ignore", message="Sparse CSR tensor support is in beta")
SCREENED = 2048
"""Rows screened at a time, whatever is read at a time: their products stay in the processor's cache."""
PAIRS = 1024
"""So many pairs of vectors at a time are gathered where no kernel reads them in place."""


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
    if not len(queries):
        keep = min(k, gallery.shape[0])
        return queries.new_empty(0, keep), torch.empty(0, keep, dtype=torch.long, device=queries.device)
    screen = Screen(queries)
    best_scores = queries.new_empty(len(queries), 0)
    best_indices = torch.empty(len(queries), 0, dtype=torch.long, device=queries.device)
    for start, rows in _blocks(gallery, block, queries.device):
        kth = best_scores[:, -1:] if best_scores.shape[1] == k else None
        places = screen.may_reach(rows, k, kth)
        scores, indices = _by_query(_scores(queries, rows, *places), *places, len(queries))
        # What is kept has lower indices than this block, so a stable sort keeps equal scores in index order.
        best_scores = torch.cat([best_scores, scores], dim=1)
        best_indices = torch.cat([best_indices, indices + start], dim=1)
        best_scores, order = best_scores.sort(dim=1, descending=True, stable=True)
        keep = min(k, start + len(rows))
        best_scores, best_indices = best_scores[:, :keep], best_indices.gather(1, order[:, :keep])
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
        for offset in range(0, len(rows), SCREENED):
            yield start + offset, rows[offset : offset + SCREENED]


def _scores(queries: Tensor, rows: Tensor, query: Tensor, row: Tensor) -> Tensor:
    """float32 dot products [P] of the pairs `queries[query], rows[row]`; `query` ascends."""
    if queries.device.type != "cpu":
        pairs = zip(query.split(PAIRS), row.split(PAIRS), strict=True)
        return torch.cat([(queries[one] * rows[other]).sum(dim=1) for one, other in pairs])
    ends = torch.searchsorted(query, torch.arange(len(queries) + 1))
    shape = (len(queries), len(rows))
    pattern = torch.sparse_csr_tensor(ends, row, queries.new_zeros(len(row)), shape, check_invariants=False)
    return torch.sparse.sampled_addmm(pattern, queries, rows.T, beta=0.0).values()


def _by_query(scores: Tensor, query: Tensor, row: Tensor, queries: int) -> tuple[Tensor, Tensor]:
    """Scores and rows of the pairs as [Q, W], the order kept, filled up with -inf."""
    counts = torch.bincount(query, minlength=queries)
    column = torch.arange(len(query), device=query.device) - (counts.cumsum(0) - counts)[query]
    table = scores.new_full((queries, int(counts.max())), -torch.inf)
    table[query, column] = scores
    indices = torch.zeros_like(table, dtype=row.dtype)
    indices[query, column] = row
    return table, indices


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
