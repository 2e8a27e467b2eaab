"""What every objective is given, and what it is.

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

    `near_text` and `near_image` are the teacher's embeddings of the row's redirection target, the nearest
    safe pair; `axis` ([D], unit length) is one that the teacher hardly uses. `text_unsafe` and `image_unsafe`
    ([B], bool) are the labels of U and of G.
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
    """`losses` gives each term unweighted, a scalar by a name ending in `_loss`; `weights` has every name."""

    losses: Callable[[Batch], dict[str, Tensor]]
    weights: Mapping[str, float]
