"""Which gallery rows can still be among the k best: products in a fast type and a bound on their error.

Where the processor multiplies bfloat16 in hardware this is several times faster than float32. Rounding moves
a vector by at most u ||x||, u = 2**-8, so for the rounded q~ and x~, by Cauchy and Schwarz,

    |q~.x~ - q.x| = |(q~ - q).x~ + q.(x~ - x)| <= (||q~ - q|| (1 + u) + ||q|| u) ||x||

and summing D products in float32, in any order, moves the sum by at most D 2**-23 ||q|| ||x|| (Higham,
Accuracy and Stability of Numerical Algorithms, 2nd edition, section 3.1). Let E be the sum of these for the
screened product and for the float32 score. A row whose screened product lies more than E below a score that k
rows reach is none of the k best; all others are left. The product is rounded once more when it is stored: by
u of its size. Where all scores are closer than E nothing is screened out, and the answer is only slower.
"""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

TINY = 1e-15
"""Added to each component's share of a norm, far above what squares and products lose when they underflow."""
HUGE = 1e37
"""Products of norms from here on may overflow while they are summed: then every row is left."""
FEW = 8
"""Up to so many queries, rounding the gallery costs more than multiplying it as it is."""


class Screen:
    """Screens blocks of a gallery for queries [Q, D], float32."""

    def __init__(self, queries: Tensor) -> None:
        self.type, self.unit = _fast_type(queries)
        self.rounded = queries.to(self.type)
        self.norms = _norms(queries)
        moved = (self.rounded.float() - queries).norm(dim=1, keepdim=True)
        summed = (3 * queries.shape[1] + 8) * 2.0**-23  # screen and score, and the arithmetic below
        self.error = moved * (1 + self.unit) + self.norms * (self.unit + summed)

    def may_reach(self, rows: Tensor, k: int, kth: Tensor | None) -> tuple[Tensor, Tensor]:
        """Pairs (query, row) in ascending order, among them every score >= `kth` [Q, 1].

        rows [B, D] float32. Without `kth`: every score that is among the block's k best.
        """
        screened = self.rounded @ rows.to(self.type).T  # [Q, B]
        longest = _norms(rows).amax()
        error = torch.where(self.norms * longest < HUGE, 1.01 * self.error * longest, torch.inf)
        if kth is None:
            kth = screened.topk(min(k, len(rows)), dim=1).values[:, -1:].float()
            kth = kth - error - 2 * self.unit * kth.abs()
        least = kth - error
        least = (least - 4 * self.unit * least.abs()).to(self.type)
        return _places(~(screened < least))  # a NaN is left


def _fast_type(queries: Tensor) -> tuple[torch.dtype, float]:
    """The screen's type, and the largest relative error of rounding a number to it."""
    if queries.device.type != "cpu":
        return torch.float32, 2.0**-11  # a GPU may be told to use TensorFloat-32
    if len(queries) > FEW and torch.cpu.get_capabilities().get("amx_bf16"):
        return torch.bfloat16, 2.0**-8
    return torch.float32, 2.0**-24


def _norms(vectors: Tensor) -> Tensor:
    """[N, 1]"""
    return vectors.norm(dim=1, keepdim=True) + TINY * vectors.shape[1] ** 0.5


def _places(mask: Tensor) -> tuple[Tensor, Tensor]:
    """Row and column of every true entry, in ascending order."""
    if mask.device.type != "cpu":
        query, row = mask.nonzero(as_tuple=True)
        return query, row
    flat = torch.from_numpy(np.flatnonzero(mask.numpy()))  # six times faster than torch's where few are true
    row = flat // mask.shape[1]
    return row, flat - row * mask.shape[1]
