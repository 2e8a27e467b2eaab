"""Safe-CLIP (arXiv 2311.16254, section 3.2): eight terms, each row's unsafe items go to its own safe pair.

    redirect   1 - cos(T(U), T0(S))    1 - cos(V(G), V0(V))    NCE(T(U), V0(V))    NCE(V(G), T0(S))
    preserve   1 - cos(T(S), T0(S))    1 - cos(V(V), V0(V))    NCE(T(S), V0(V))    NCE(V(V), T0(S))

Weights are the released trainer's, normalised to a sum of 1. It departs from that trainer in one thing: the
teacher is truly frozen (there, adapters were added to the very modules that served as teacher). The labels
are not used: the objective takes every generated item for unsafe.
"""

from __future__ import annotations

from torch import Tensor

from safeclip.training.objectives.batch import Batch, Objective
from safeclip.training.objectives.terms import align, cosine_distance, info_nce, preserve

_RAW = {
    "preserve_text_loss": 0.1,
    "redirect_text_loss": 0.1,
    "preserve_image_loss": 0.1,
    "redirect_image_loss": 0.2,
    "align_text_loss": 0.25,
    "cross_text_loss": 0.25,
    "align_image_loss": 0.25,
    "cross_image_loss": 0.5,
}
WEIGHTS = {name: weight / sum(_RAW.values()) for name, weight in _RAW.items()}


def losses(batch: Batch) -> dict[str, Tensor]:
    """The eight terms, unweighted."""
    student, teacher = batch.student, batch.teacher
    return {
        **preserve(batch),
        **align(batch),
        "redirect_text_loss": cosine_distance(student.text_generated, teacher.text_safe),
        "redirect_image_loss": cosine_distance(student.image_generated, teacher.image_safe),
        "cross_text_loss": info_nce(student.text_generated, teacher.image_safe),
        "cross_image_loss": info_nce(student.image_generated, teacher.text_safe),
    }


OBJECTIVE = Objective(losses, WEIGHTS)
