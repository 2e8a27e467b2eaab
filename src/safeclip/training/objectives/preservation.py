"""What the objectives share: the terms that hold safe things where the teacher has them.

preserve   1 - cos(T(S), T0(S))            1 - cos(V(V), V0(V))
align      NCE(T(S), V0(V))                NCE(V(V), T0(S))
relate     KL(T(S) || T0(S) over {V0(V)})  KL(V(V) || V0(V) over {T0(S)})
anchor     1 - cos(T(U), T0(U)), U safe    1 - cos(V(G), V0(G)), G safe
"""

from __future__ import annotations

from torch import Tensor

from safeclip.training.objectives.batch import Batch
from safeclip.training.objectives.terms import cosine_distance, info_nce, relation_distillation


def preserve(batch: Batch) -> dict[str, Tensor]:
    """Safe pairs stay: `preserve_{text,image}_loss`."""
    student, teacher = batch.student, batch.teacher
    return {
        "preserve_text_loss": cosine_distance(student.text_safe, teacher.text_safe),
        "preserve_image_loss": cosine_distance(student.image_safe, teacher.image_safe),
    }


def align(batch: Batch) -> dict[str, Tensor]:
    """Safe pairs still find each other: `align_{text,image}_loss`."""
    student, teacher = batch.student, batch.teacher
    return {
        "align_text_loss": info_nce(student.text_safe, teacher.image_safe),
        "align_image_loss": info_nce(student.image_safe, teacher.text_safe),
    }


def relate(batch: Batch) -> dict[str, Tensor]:
    """Safe items rank the safe items of the other modality as before: `relate_{text,image}_loss`."""
    student, teacher = batch.student, batch.teacher
    return {
        "relate_text_loss": relation_distillation(student.text_safe, teacher.text_safe, teacher.image_safe),
        "relate_image_loss": relation_distillation(student.image_safe, teacher.image_safe, teacher.text_safe),
    }


def anchor(batch: Batch) -> dict[str, Tensor]:
    """Generated items labelled safe stay: `anchor_{text,image}_loss`."""
    student, teacher = batch.student, batch.teacher
    return {
        "anchor_text_loss": cosine_distance(
            student.text_generated, teacher.text_generated, ~batch.text_unsafe
        ),
        "anchor_image_loss": cosine_distance(
            student.image_generated, teacher.image_generated, ~batch.image_unsafe
        ),
    }
