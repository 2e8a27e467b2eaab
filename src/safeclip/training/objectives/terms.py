"""Terms that objectives are made of. A mean over no rows is exactly 0 and sends no gradient.

The pieces are functions of tensors. Four terms that several objectives share hold safe things where the
teacher has them:

    preserve   1 - cos(T(S), T0(S))            1 - cos(V(V), V0(V))
    align      NCE(T(S), V0(V))                NCE(V(V), T0(S))
    relate     KL(T(S) || T0(S) over {V0(V)})  KL(V(V) || V0(V) over {T0(S)})
    anchor     1 - cos(T(U), T0(U)), U safe    1 - cos(V(G), V0(G)), G safe

Letters as in `batch`. B rows, D the embedding's width, G gallery items.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F

from safeclip.training.objectives.batch import Batch


def masked_mean(values: Tensor, mask: Tensor) -> Tensor:
    """Return the mean of values [B] over the rows of mask ([B] bool); 0 if there are none."""
    return torch.where(mask, values, 0.0).sum() / mask.sum().clamp(min=1)


def cosine_distance(a: Tensor, b: Tensor, mask: Tensor | None = None) -> Tensor:
    """Return the mean of 1 - cos(a_i, b_i) for a, b [B, D], over the rows of mask ([B] bool) or all."""
    distance = 1.0 - (a * b).sum(dim=-1)
    return distance.mean() if mask is None else masked_mean(distance, mask)


def info_nce(a: Tensor, b: Tensor, scale: float = 100.0, mask: Tensor | None = None) -> Tensor:
    """Return the symmetric InfoNCE of the pairs (a_i, b_i), [B, D] each, among the rows of mask ([B] bool).

    CLIP (arXiv 2103.00020), figure 3. `scale` is 1 / temperature. One row alone has no negatives: 0.
    """
    if mask is not None:
        a, b = a[mask], b[mask]
    if len(a) == 0:
        return a.sum()  # 0, still a node of the graph
    # shape: [B, B]
    logits = scale * a @ b.T
    target = torch.arange(len(a), device=a.device)
    return 0.5 * (F.cross_entropy(logits, target) + F.cross_entropy(logits.T, target))


def relation_distillation(student: Tensor, teacher: Tensor, gallery: Tensor, scale: float = 100.0) -> Tensor:
    """Return the mean KL of the student's retrieval distribution from the teacher's, over a gallery [G, D].

    Queries of both are [B, D]. The distribution of a query is the softmax of its scaled cosines. Unlike
    InfoNCE the loss has no notion of a right answer: a query that fits several items goes on fitting them. It
    distils relations after arXiv 1904.05068, here over the teacher's gallery for both.
    """
    # shape: [B, G]
    ours = (scale * student @ gallery.T).log_softmax(dim=1)
    theirs = (scale * teacher @ gallery.T).log_softmax(dim=1)
    return F.kl_div(ours, theirs, log_target=True, reduction="batchmean")


def contrastive_nll(
    query: Tensor, positive: Tensor, negatives: Tensor, *, scale: float, rows: Tensor, columns: Tensor
) -> Tensor:
    """Return R(q; p | N) = -log[e^(scale q.p) / (e^(scale q.p) + sum over n in N of e^(scale q.n))].

    query, positive, negatives: [B, D]. The mean is over the queries of `rows`; N holds the negatives of
    `columns` (both [B] bool). 0 if either is empty.
    """
    # shape: [B, 1], then [B, B]
    wanted = scale * (query * positive).sum(dim=-1, keepdim=True)
    unwanted = (scale * query @ negatives.T).masked_fill(~columns, -torch.inf)
    loss = torch.logsumexp(torch.cat([wanted, unwanted], dim=1), dim=1) - wanted[:, 0]
    return masked_mean(loss, rows)


def preserve(batch: Batch) -> dict[str, Tensor]:
    """Keep safe pairs where they are: `preserve_{text,image}_loss`."""
    student, teacher = batch.student, batch.teacher
    return {
        "preserve_text_loss": cosine_distance(student.text_safe, teacher.text_safe),
        "preserve_image_loss": cosine_distance(student.image_safe, teacher.image_safe),
    }


def align(batch: Batch) -> dict[str, Tensor]:
    """Keep safe pairs finding each other: `align_{text,image}_loss`."""
    student, teacher = batch.student, batch.teacher
    return {
        "align_text_loss": info_nce(student.text_safe, teacher.image_safe),
        "align_image_loss": info_nce(student.image_safe, teacher.text_safe),
    }


def relate(batch: Batch) -> dict[str, Tensor]:
    """Keep how safe items rank those of the other modality: `relate_{text,image}_loss`."""
    student, teacher = batch.student, batch.teacher
    return {
        "relate_text_loss": relation_distillation(student.text_safe, teacher.text_safe, teacher.image_safe),
        "relate_image_loss": relation_distillation(student.image_safe, teacher.image_safe, teacher.text_safe),
    }


def anchor(batch: Batch) -> dict[str, Tensor]:
    """Keep generated items labelled safe where they are: `anchor_{text,image}_loss`."""
    student, teacher = batch.student, batch.teacher
    return {
        "anchor_text_loss": cosine_distance(
            student.text_generated, teacher.text_generated, ~batch.text_unsafe
        ),
        "anchor_image_loss": cosine_distance(
            student.image_generated, teacher.image_generated, ~batch.image_unsafe
        ),
    }
