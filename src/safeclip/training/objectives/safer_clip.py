"""SaFeR-CLIP (arXiv 2511.16743, section 3): unsafe items go to the nearest safe pair under the teacher.

    preserve  1 - cos(T(S), T0(S))         1 - cos(V(V), V0(V))
    align     NCE(T(S), V0(V))             NCE(V(V), T0(S))
    redirect  1 - cos(T(U), T0(S_near))    1 - cos(V(G), V0(V_near))
    cross     softplus(cos(T(U), V0(G)) - cos(T(U), V0(V_near)))
              softplus(cos(V(G), T0(U)) - cos(V(G), T0(S_near)))

In the cross terms a row's own unsafe counterpart is the only negative. Departures: the nearest pair is sought
by caption and picture together, and the paper's order of training (easy pairs first) is left out. Weights
are Safe-CLIP's for the terms of the same role. As there, every generated item is taken for unsafe.
"""

from __future__ import annotations

from torch import Tensor
from torch.nn import functional as F

from safeclip.training.objectives.batch import Batch, Objective
from safeclip.training.objectives.safe_clip import WEIGHTS
from safeclip.training.objectives.terms import align, cosine_distance, preserve


def losses(batch: Batch) -> dict[str, Tensor]:
    """The eight terms, unweighted."""
    student, teacher = batch.student, batch.teacher
    text, image = student.text_generated, student.image_generated
    return {
        **preserve(batch),
        **align(batch),
        "redirect_text_loss": cosine_distance(text, batch.near_text),
        "redirect_image_loss": cosine_distance(image, batch.near_image),
        "cross_text_loss": _prefer(text, batch.near_image, teacher.image_generated),
        "cross_image_loss": _prefer(image, batch.near_text, teacher.text_generated),
    }


def _prefer(query: Tensor, wanted: Tensor, unwanted: Tensor) -> Tensor:
    return F.softplus((query * (unwanted - wanted)).sum(dim=-1)).mean()


OBJECTIVE = Objective(losses, WEIGHTS)
