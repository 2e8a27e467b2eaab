"""Where each row's unsafe items are redirected to, from the teacher's embeddings alone."""

from __future__ import annotations

from dataclasses import asdict

import torch
from torch import Tensor
from torch.nn import functional as F

from safeclip.encoders.embed import Quadruplets
from safeclip.metrics.topk import topk


def redirection_targets(
    teacher: Quadruplets, inverse_temperature: float | None = None, block: int = 1024
) -> tuple[Tensor, Tensor]:
    """Return where each row's unsafe items are redirected to: text and image embeddings, each [N, D].

    Without `inverse_temperature` these are the teacher's embeddings of the nearest safe pair. SaFeR-CLIP
    (arXiv 2511.16743) finds its targets so, there by captions alone. Ties go to the lower row. With it they
    are the normalised mean of all safe pairs p, weighted by exp(inverse_temperature * nearness(row, p)). Such
    a target changes little between similar rows, so training carries it over to rows it never saw. Nearness
    is the sum of the cosines of caption to caption and image to image. Memory is N x D, and block x N for the
    mean.
    """
    # [t ; v] . [t' ; v'] = t.t' + v.v': one product for both modalities
    queries = torch.cat([teacher.text_generated, teacher.image_generated], dim=1)
    gallery = torch.cat([teacher.text_safe, teacher.image_safe], dim=1)
    if inverse_temperature is None:
        near = topk(queries, gallery, 1, block, block)[1][:, 0]
        return teacher.text_safe[near], teacher.image_safe[near]
    means = [
        (inverse_temperature * rows @ gallery.T).softmax(dim=1) @ gallery for rows in queries.split(block)
    ]
    text, image = torch.cat(means).chunk(2, dim=1)
    return F.normalize(text, dim=-1), F.normalize(image, dim=-1)


def low_variance_direction(teacher: Quadruplets) -> Tensor:
    """A unit vector [D] along which the teacher's embeddings hardly differ from 0 (measured: 0.01 rms).

    The middle eigenvector of their second moment, safe and generated, captions and pictures alike. The last
    ones are quieter still, but the towers' projections can hardly reach them (measured: ten times slower to
    learn). The sign is fixed by the largest component.
    """
    items = torch.cat([*asdict(teacher).values()]).double()
    _, vectors = torch.linalg.eigh(items.T @ items)
    axis = vectors[:, items.shape[1] // 2]
    return (axis * axis[axis.abs().argmax()].sign()).float()
