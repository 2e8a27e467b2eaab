"""ShieldCLIP (arXiv 2609.39688, section 3.3): what is asked of a generated pair depends on its two labels.

    real      1 - cos(T(S), T0(S))             1 - cos(V(V), V0(V))
    safe      1 - cos(T(U), T0(U)), U safe     1 - cos(V(G), V0(G)), G safe
    redirect  1 - cos(T(U), T0(S)), U unsafe   1 - cos(V(G), V0(V)), G unsafe
    mixed     NCE(T(U), V0(G)), only U unsafe  NCE(V(G), T0(U)), only G unsafe
    coherent  NCE(T(U), V(G)), both unsafe, both trainable

Weights are the paper's: 0.1 for the first three rows, 0.25 for the last two.
"""

from __future__ import annotations

from torch import Tensor

from safeclip.training.objectives.batch import Batch, Objective
from safeclip.training.objectives.terms import anchor, cosine_distance, info_nce, preserve

WEIGHTS = {
    "preserve_text_loss": 0.1,
    "preserve_image_loss": 0.1,
    "anchor_text_loss": 0.1,
    "anchor_image_loss": 0.1,
    "redirect_text_loss": 0.1,
    "redirect_image_loss": 0.1,
    "mixed_text_loss": 0.25,
    "mixed_image_loss": 0.25,
    "coherent_loss": 0.25,
}


def losses(batch: Batch) -> dict[str, Tensor]:
    """The terms of the table above, unweighted."""
    student, teacher = batch.student, batch.teacher
    text, image = batch.text_unsafe, batch.image_unsafe
    unsafe_text, unsafe_image = student.text_generated, student.image_generated
    return {
        **preserve(batch),
        **anchor(batch),
        "redirect_text_loss": cosine_distance(unsafe_text, teacher.text_safe, text),
        "redirect_image_loss": cosine_distance(unsafe_image, teacher.image_safe, image),
        "mixed_text_loss": info_nce(unsafe_text, teacher.image_generated, mask=text & ~image),
        "mixed_image_loss": info_nce(unsafe_image, teacher.text_generated, mask=image & ~text),
        "coherent_loss": info_nce(unsafe_text, unsafe_image, mask=text & image),
    }


OBJECTIVE = Objective(losses, WEIGHTS)
