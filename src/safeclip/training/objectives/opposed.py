"""Keep safe items; move unsafe captions and unsafe images along one unused axis, in opposite directions.

With S, V safe and U, G generated, T, V the student and T0, V0 the teacher, (S_t, V_t) the redirection target
of (U, G), e a unit vector that the teacher hardly uses (`rows.low_variance_direction`), and only rows
labelled unsafe redirected:

    preserve   1 - cos(T(S), T0(S))                       1 - cos(V(V), V0(V))
    relate     KL(T(S) || T0(S) over {V0(V)})             KL(V(V) || V0(V) over {T0(S)})
    anchor     1 - cos(T(U), T0(U)), U safe               1 - cos(V(G), V0(G)), G safe
    redirect   1 - cos(T(U), T0(S_t) + a e)               1 - cos(V(G), V0(V_t) - b e)

Why. Redirection alone moves U and G onto the same safe pair, where they meet again: an unsafe caption still
finds an unsafe image as easily as the safe one. With safe embeddings x (e . x = 0), T(U) = (s + a e)/r and
V(G) = (v - b e)/q, r = sqrt(1 + a^2), q = sqrt(1 + b^2):

    T(U) . V    =  s . v / r               unsafe query, safe item
    T(U) . V(G) = (s . v - a b) / (r q)    unsafe query, unsafe item
    S . V(G)    =  s . v / q               safe query, unsafe item: below s . v, safe queries keep their own

The unsafe item loses by a margin that grows with a b, in both directions, for every pair at once; what the
encoder has to learn for it is one linear feature ("unsafe") and its sign, which few rows teach,
where contrasting individual items (`relative`) does not carry over to unseen ones.
Redirection to the nearest safe item follows SaFeR-CLIP (arXiv 2511.16743, section 3), the labels' role
ShieldCLIP (arXiv 2609.39688, section 3.3); the opposed axis is ours.
"""

from __future__ import annotations

from torch import Tensor
from torch.nn import functional as F

from safeclip.training.objectives.batch import Batch, Objective
from safeclip.training.objectives.terms import anchor, cosine_distance, preserve, relate

OFFSET_TEXT, OFFSET_IMAGE = 2.0, 0.5
"""a and b: how far along the axis, against a safe embedding's length of 1; a b = 1 is what the margin needs.

A caption names what it holds; an image's look betrays only that it was generated. So an image labelled
wrongly is moved by 27 degrees instead of 45.
"""

WEIGHTS = {
    "preserve_text_loss": 14.0,
    "preserve_image_loss": 12.0,
    "relate_text_loss": 2.0,
    "relate_image_loss": 1.0,
    "anchor_text_loss": 12.0,
    "anchor_image_loss": 40.0,
    "redirect_text_loss": 10.0,
    "redirect_image_loss": 12.0,
}


def losses(batch: Batch) -> dict[str, Tensor]:
    """Every term of the table above, unweighted."""
    student = batch.student
    text, image = batch.text_unsafe, batch.image_unsafe
    to_text = F.normalize(batch.near_text + OFFSET_TEXT * batch.axis, dim=-1)
    to_image = F.normalize(batch.near_image - OFFSET_IMAGE * batch.axis, dim=-1)
    return {
        **preserve(batch),
        **relate(batch),
        **anchor(batch),
        "redirect_text_loss": cosine_distance(student.text_generated, to_text, text),
        "redirect_image_loss": cosine_distance(student.image_generated, to_image, image),
    }


OBJECTIVE = Objective(losses, WEIGHTS)
