"""The pieces objectives are made of. A mean over no rows is exactly 0 and sends no gradient."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F


def masked_mean(values: Tensor, mask: Tensor) -> Tensor:
    """Mean of values [B] over the rows of mask ([B], bool); 0 where there are none."""
    return torch.where(mask, values, 0.0).sum() / mask.sum().clamp(min=1)


def cosine_distance(a: Tensor, b: Tensor, mask: Tensor | None = None) -> Tensor:
    """Mean of 1 - cos(a_i, b_i) over the rows of mask (all, without one)."""
    distance = 1.0 - (a * b).sum(dim=-1)
    return distance.mean() if mask is None else masked_mean(distance, mask)


def info_nce(a: Tensor, b: Tensor, scale: float = 100.0, mask: Tensor | None = None) -> Tensor:
    """Symmetric InfoNCE of the pairs (a_i, b_i) among the rows of mask; `scale` is 1 / temperature.

    CLIP (arXiv 2103.00020), figure 3. One row alone has no negatives: 0.
    """
    if mask is not None:
        a, b = a[mask], b[mask]
    if len(a) == 0:
        return a.sum()  # 0, still a node of the graph
    logits = scale * a @ b.T
    target = torch.arange(len(a), device=a.device)
    return 0.5 * (F.cross_entropy(logits, target) + F.cross_entropy(logits.T, target))


def relation_distillation(student: Tensor, teacher: Tensor, gallery: Tensor, scale: float = 100.0) -> Tensor:
    """Mean KL of the student's retrieval distribution over a gallery [G, D] from the teacher's, both [B, D].

    The distribution of a query is the softmax of its scaled cosines. Unlike InfoNCE it has no notion of a
    right answer: a query that fits several items goes on fitting them (distillation of
    relations, after arXiv 1904.05068, here over the teacher's gallery for both).
    """
    ours = (scale * student @ gallery.T).log_softmax(dim=1)
    theirs = (scale * teacher @ gallery.T).log_softmax(dim=1)
    return F.kl_div(ours, theirs, log_target=True, reduction="batchmean")


def contrastive_nll(
    query: Tensor, positive: Tensor, negatives: Tensor, *, scale: float, rows: Tensor, columns: Tensor
) -> Tensor:
    """R(q; p | N) = -log[e^(scale q.p) / (e^(scale q.p) + sum over n in N of e^(scale q.n))].

    The mean over the queries of `rows`, N the negatives of `columns` (both [B], bool); 0 if either is empty.
    """
    wanted = scale * (query * positive).sum(dim=-1, keepdim=True)
    unwanted = (scale * query @ negatives.T).masked_fill(~columns, -torch.inf)
    loss = torch.logsumexp(torch.cat([wanted, unwanted], dim=1), dim=1) - wanted[:, 0]
    return masked_mean(loss, rows)
