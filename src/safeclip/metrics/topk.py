"""Find the exact k best rows of a gallery, streamed in blocks: memory is Q x block, whatever N is.

The result equals a stable descending sort of all scores cut to k: among equal scores the lowest gallery index
wins. A score is the float32 dot product summed in one fixed order, so equal rows score equally wherever they
stand, and the answer does not depend on `block`.

Each block takes two steps. `Screen` multiplies everything in a fast type and leaves the few rows that may
still reach the k best, with a proof that it leaves them all. Only those are scored in float32 and merged with
what is kept. Cost: Q N D multiply-adds in the screen's type, one comparison of each product, and the float32
scores of some k (1 + ln(N / 2048)) rows a query and of those that the bound cannot tell apart.

Shapes: Q queries, N gallery rows, D width, B rows of a block, P pairs of a query and a row, K = min(k, N).
"""

from __future__ import annotations

import warnings
from collections.abc import Iterator
from typing import Protocol

import numpy as np
import torch
from torch import Tensor

from safeclip.core.errors import DataError

# the screen's scores of pairs are read through a sparse pattern, which torch calls a beta
warnings.filterwarnings("ignore", message="Sparse CSR tensor support is in beta")

SCREENED = 2048
"""Rows screened at a time, whatever is read at a time: their products stay in the processor's cache."""
PAIRS = 1024
"""So many pairs of vectors at a time are gathered where no kernel reads them in place."""
TINY = 1e-15
"""Added to each component's share of a norm, far above what squares and products lose when they underflow."""
HUGE = 1e37
"""Products of norms from here on may overflow while they are summed: then every row is left."""
FEW = 8
"""Up to so many queries, rounding the gallery costs more than multiplying it as it is."""


class Gallery(Protocol):
    """[N, D] float32 rows, read in slices: a tensor, an array, a memory map or any other reader."""

    @property
    def shape(self) -> tuple[int, ...]: ...

    def __getitem__(self, rows: slice, /) -> Tensor | np.ndarray: ...


@torch.no_grad()
def topk(
    queries: Tensor, gallery: Gallery, k: int, block: int = 8192, query_block: int = 1024
) -> tuple[Tensor, Tensor]:
    """Find the k best gallery rows of each query by inner product.

    queries [Q, D] and gallery [N, D], float32; the products are cosines if both are l2-normalised. Returns
    scores [Q, K] float32, descending, and indices [Q, K] int64.

    Raises:
        DataError: an empty gallery, shapes that do not match, k < 1, or values that are not finite.
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
        # what is kept has lower indices than this block, so a stable sort keeps equal scores in index order.
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
            # a copy: torch warns about read-only memory, and a memory map is read from disk here anyway.
            rows = torch.from_numpy(np.array(rows, dtype=np.float32))
        rows = rows.to(device)
        if not _all_finite(rows):
            raise DataError(f"gallery rows {start} to {start + len(rows) - 1}: an embedding is not finite")
        for offset in range(0, len(rows), SCREENED):
            yield start + offset, rows[offset : offset + SCREENED]


def _scores(queries: Tensor, rows: Tensor, query: Tensor, row: Tensor) -> Tensor:
    """Return the float32 dot products [P] of the pairs `queries[query], rows[row]`; `query` ascends."""
    if queries.device.type != "cpu":
        pairs = zip(query.split(PAIRS), row.split(PAIRS), strict=True)
        return torch.cat([(queries[one] * rows[other]).sum(dim=1) for one, other in pairs])
    ends = torch.searchsorted(query, torch.arange(len(queries) + 1))
    shape = (len(queries), len(rows))
    pattern = torch.sparse_csr_tensor(ends, row, queries.new_zeros(len(row)), shape, check_invariants=False)
    return torch.sparse.sampled_addmm(pattern, queries, rows.T, beta=0.0).values()


def _by_query(scores: Tensor, query: Tensor, row: Tensor, queries: int) -> tuple[Tensor, Tensor]:
    """Arrange scores and rows of the pairs [P] as [Q, W], in their order, filled up with -inf."""
    counts = torch.bincount(query, minlength=queries)
    column = torch.arange(len(query), device=query.device) - (counts.cumsum(0) - counts)[query]
    table = scores.new_full((queries, int(counts.max())), -torch.inf)
    table[query, column] = scores
    indices = torch.zeros_like(table, dtype=row.dtype)
    indices[query, column] = row
    return table, indices


def _all_finite(rows: Tensor) -> bool:
    # a sum is finite only if every term is (float32 sums of unit vectors cannot overflow).
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


class Screen:
    """Screens blocks of a gallery for queries [Q, D] float32: fast products and a bound on their error.

    Where the processor multiplies bfloat16 in hardware this is several times faster than float32. Rounding
    moves a vector by at most u ||x||, u = 2**-8, so for the rounded q~ and x~, by Cauchy and Schwarz,

        |q~.x~ - q.x| = |(q~ - q).x~ + q.(x~ - x)| <= (||q~ - q|| (1 + u) + ||q|| u) ||x||

    and summing D products in float32, in any order, moves the sum by at most D 2**-23 ||q|| ||x|| (Higham,
    Accuracy and Stability of Numerical Algorithms, 2nd edition, section 3.1). Let E be the sum of these for
    the screened product and for the float32 score. A row whose screened product lies more than E below a
    score that k rows reach is none of the k best; all others are left. The product is rounded once more when
    it is stored: by u of its size. Where all scores are closer than E nothing is screened out, and the answer
    is only slower.
    """

    def __init__(self, queries: Tensor) -> None:
        self.type, self.unit = _fast_type(queries)
        self.rounded = queries.to(self.type)
        self.norms = _norms(queries)
        moved = (self.rounded.float() - queries).norm(dim=1, keepdim=True)
        # of the screened product, of the score, and of the arithmetic below
        summed = (3 * queries.shape[1] + 8) * 2.0**-23
        self.error = moved * (1 + self.unit) + self.norms * (self.unit + summed)

    def may_reach(self, rows: Tensor, k: int, kth: Tensor | None) -> tuple[Tensor, Tensor]:
        """Return pairs (query, row) [P] in ascending order, among them every score >= `kth` [Q, 1].

        rows [B, D] float32. Without `kth`: every score that is among the block's k best.
        """
        # shape: [Q, B]
        screened = self.rounded @ rows.to(self.type).T
        longest = _norms(rows).amax()
        error = torch.where(self.norms * longest < HUGE, 1.01 * self.error * longest, torch.inf)
        if kth is None:
            kth = screened.topk(min(k, len(rows)), dim=1).values[:, -1:].float()
            kth = kth - error - 2 * self.unit * kth.abs()
        least = kth - error
        least = (least - 4 * self.unit * least.abs()).to(self.type)
        # written so that a NaN is left
        return _places(~(screened < least))


def _fast_type(queries: Tensor) -> tuple[torch.dtype, float]:
    """Return the screen's type, and the largest relative error of rounding a number to it."""
    if queries.device.type != "cpu":
        # a GPU may be told to use TensorFloat-32
        return torch.float32, 2.0**-11
    if len(queries) > FEW and torch.cpu.get_capabilities().get("amx_bf16"):
        return torch.bfloat16, 2.0**-8
    return torch.float32, 2.0**-24


def _norms(vectors: Tensor) -> Tensor:
    """Return norms [N, 1] that are never too small."""
    return vectors.norm(dim=1, keepdim=True) + TINY * vectors.shape[1] ** 0.5


def _places(mask: Tensor) -> tuple[Tensor, Tensor]:
    """Return row and column of every true entry, in ascending order."""
    if mask.device.type != "cpu":
        query, row = mask.nonzero(as_tuple=True)
        return query, row
    # six times faster than torch's where few are true
    flat = torch.from_numpy(np.flatnonzero(mask.numpy()))
    row = flat // mask.shape[1]
    return row, flat - row * mask.shape[1]
