"""Keep safe items; move unsafe items to the nearest safe pair and away from each other.

With S, V safe and U, G generated, T, V the student and T0, V0 the teacher, (S_near, V_near) the safe pair
nearest to (U, G) under the teacher, and only rows labelled unsafe redirected:

    preserve   1 - cos(T(S), T0(S))                 1 - cos(V(V), V0(V))
    align      NCE(T(S), V0(V))                     NCE(V(V), T0(S))
    anchor     1 - cos(T(U), T0(U)), U safe         1 - cos(V(G), V0(G)), G safe
    redirect   1 - cos(T(U), T0(S_near))            1 - cos(V(G), V0(V_near))
    relative   R(T(U); V0(V_near) | {V(G_j)})       R(V(G); T0(S_near) | {T(U_j)})

R is the cross-entropy of one positive, the safe target in the other modality, against every unsafe item of
that modality in the batch; both sides are trainable, which is what empties the unsafe neighbourhood.
Redirection to the nearest safe item follows SaFeR-CLIP (arXiv 2511.16743, section 3), the labels' role
ShieldCLIP (arXiv 2609.39688, section 3.3); the relative term is ours.
"""

from __future__ import annotations

from torch import Tensor

from safeclip.training.objectives.batch import Batch, Objective
from safeclip.training.objectives.terms import align, anchor, contrastive_nll, cosine_distance, preserve

SCALE = 50.0
"""Of the relative term: softer than CLIP's 100, so that a query feels more than its hardest negative."""

WEIGHTS = {
    "preserve_text_loss": 4.0,
    "preserve_image_loss": 4.0,
    "align_text_loss": 0.25,
    "align_image_loss": 0.25,
    "anchor_text_loss": 4.0,
    "anchor_image_loss": 4.0,
    "redirect_text_loss": 1.0,
    "redirect_image_loss": 1.0,
    "relative_text_loss": 1.0,
    "relative_image_loss": 1.0,
}


def losses(batch: Batch) -> dict[str, Tensor]:
    """Every term of the table above, unweighted."""
    student = batch.student
    text, image = batch.text_unsafe, batch.image_unsafe
    return {
        **preserve(batch),
        **align(batch),
        **anchor(batch),
        "redirect_text_loss": cosine_distance(student.text_generated, batch.near_text, text),
        "redirect_image_loss": cosine_distance(student.image_generated, batch.near_image, image),
        "relative_text_loss": contrastive_nll(
            student.text_generated,
            batch.near_image,
            student.image_generated,
            scale=SCALE,
            rows=text,
            columns=image,
        ),
        "relative_image_loss": contrastive_nll(
            student.image_generated,
            batch.near_text,
            student.text_generated,
            scale=SCALE,
            rows=image,
            columns=text,
        ),
    }


OBJECTIVE = Objective(losses, WEIGHTS)
