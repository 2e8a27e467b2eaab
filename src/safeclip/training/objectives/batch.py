"""The batch that every objective is given, and the objective itself.

Letters of the papers: S safe text, U generated text, V safe image, G generated image; T and V the trainable
encoders, T0 and V0 the frozen teacher. All embeddings are [B, D], l2-normalised, float32.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

from torch import Tensor

from safeclip.encoders.embed import Quadruplets


@dataclass(frozen=True)
class Batch:
    """B rows as an objective sees them.

    student, teacher: four columns each, [B, D].
    near_text, near_image: [B, D], the row's redirection target (`rows.redirection_targets`).
    text_unsafe, image_unsafe: [B] bool, the labels of U and of G.
    axis: [D], unit length, a direction that the teacher hardly uses.
    """

    student: Quadruplets
    teacher: Quadruplets
    near_text: Tensor
    near_image: Tensor
    text_unsafe: Tensor
    image_unsafe: Tensor
    axis: Tensor


@dataclass(frozen=True)
class Objective:
    """Losses and their weights.

    losses: returns each term unweighted, a scalar by a name ending in `_loss`.
    weights: has every one of these names.
    """

    losses: Callable[[Batch], dict[str, Tensor]]
    weights: Mapping[str, float]
