"""Every objective to the last digit: values by hand, numerical gradients, label states, any order."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable, Sequence

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from safeclip.training.objectives import OBJECTIVES, Batch, Quadruplets, resolve_weights

STATES = [(True, True), (True, False), (False, True), (False, False)]
"""Labels of (caption, picture): unsafe or not."""

# Angles in degrees of embeddings in the plane, four rows: the cosine of two is that of their difference.
STUDENT = {
    "text_safe": (0, 40, 95, 150),
    "text_generated": (20, 70, 120, 200),
    "image_safe": (5, 50, 90, 160),
    "image_generated": (30, 55, 140, 190),
}
TEACHER = {
    "text_safe": (10, 45, 100, 155),
    "text_generated": (25, 60, 110, 205),
    "image_safe": (15, 35, 85, 165),
    "image_generated": (12, 65, 130, 195),
}
NEAR_TEXT, NEAR_IMAGE, AXIS = (45, 10, 155, 100), (35, 15, 165, 85), 250
TEXT_UNSAFE, IMAGE_UNSAFE = zip(*STATES, strict=True)
EVERY = range(4)


def point(angles: Sequence[float]) -> Tensor:
    radians = torch.tensor(angles, dtype=torch.float64).deg2rad()
    return torch.stack([radians.cos(), radians.sin()], dim=-1)


def plane_batch() -> Batch:
    return Batch(
        Quadruplets(**{name: point(angles) for name, angles in STUDENT.items()}),
        Quadruplets(**{name: point(angles) for name, angles in TEACHER.items()}),
        point(NEAR_TEXT),
        point(NEAR_IMAGE),
        torch.tensor(TEXT_UNSAFE),
        torch.tensor(IMAGE_UNSAFE),
        point([AXIS])[0],
    )


def cos(a: float, b: float) -> float:
    return math.cos(math.radians(a - b))


def distance(a: Sequence[float], b: Sequence[float], rows: Sequence[int] = EVERY) -> float:
    """Mean of 1 - cos over these rows."""
    return sum(1 - cos(a[row], b[row]) for row in rows) / len(rows)


def nce(a: Sequence[float], b: Sequence[float], rows: Sequence[int] = EVERY) -> float:
    """Symmetric cross-entropy at temperature 0.01, written out."""
    total = 0.0
    for row in rows:
        forth = math.fsum(math.exp(100 * (cos(a[row], b[other]) - cos(a[row], b[row]))) for other in rows)
        back = math.fsum(math.exp(100 * (cos(a[other], b[row]) - cos(a[row], b[row]))) for other in rows)
        total += 0.5 * (math.log(forth) + math.log(back))
    return total / len(rows)


def kl(student: Sequence[float], teacher: Sequence[float], gallery: Sequence[float]) -> float:
    """Mean divergence of the student's softmax over the gallery from the teacher's, at a scale of 100."""
    total = 0.0
    for ours, theirs in zip(student, teacher, strict=True):
        logs = []
        for query in (ours, theirs):
            scores = [100 * cos(query, item) for item in gallery]
            top = max(scores)
            logs.append([score - top - math.log(sum(math.exp(s - top) for s in scores)) for score in scores])
        total += sum(math.exp(q) * (q - p) for p, q in zip(*logs, strict=True))
    return total / len(student)


def relative(query: str, wanted: Sequence[float], others: str, rows: Sequence[int], columns: Sequence[int]):
    q, n, total = STUDENT[query], STUDENT[others], 0.0
    for row in rows:
        own = 50 * cos(q[row], wanted[row])
        total += math.log(1 + sum(math.exp(50 * cos(q[row], n[other]) - own) for other in columns))
    return total / len(rows)


def prefer(query: str, wanted: Sequence[float], unwanted: str) -> float:
    q, u = STUDENT[query], TEACHER[unwanted]
    return sum(math.log1p(math.exp(cos(q[i], u[i]) - cos(q[i], wanted[i]))) for i in EVERY) / 4


def towards(angles: Sequence[float], other: float, times: float) -> list[float]:
    """The direction of a unit vector plus so many times another one."""
    turn = [math.radians(other - angle) for angle in angles]
    sides = [(times * math.sin(t), 1 + times * math.cos(t)) for t in turn]
    return [angle + math.degrees(math.atan2(*side)) for angle, side in zip(angles, sides, strict=True)]


S, U, V, G = (STUDENT[n] for n in ("text_safe", "text_generated", "image_safe", "image_generated"))
S0, U0, V0, G0 = (TEACHER[n] for n in ("text_safe", "text_generated", "image_safe", "image_generated"))
PRESERVE = {"preserve_text_loss": distance(S, S0), "preserve_image_loss": distance(V, V0)}
ALIGN = {"align_text_loss": nce(S, V0), "align_image_loss": nce(V, S0)}
ANCHOR = {"anchor_text_loss": distance(U, U0, [2, 3]), "anchor_image_loss": distance(G, G0, [1, 3])}
BY_HAND: dict[str, dict[str, float]] = {
    "opposed": {
        **PRESERVE,
        **ANCHOR,
        "relate_text_loss": kl(S, S0, V0),
        "relate_image_loss": kl(V, V0, S0),
        "redirect_text_loss": distance(U, towards(NEAR_TEXT, AXIS, 2.0), [0, 1]),
        "redirect_image_loss": distance(G, towards(NEAR_IMAGE, AXIS - 180, 0.5), [0, 2]),
    },
    "safe_clip": {
        **PRESERVE,
        **ALIGN,
        "redirect_text_loss": distance(U, S0),
        "redirect_image_loss": distance(G, V0),
        "cross_text_loss": nce(U, V0),
        "cross_image_loss": nce(G, S0),
    },
    "safer_clip": {
        **PRESERVE,
        **ALIGN,
        "redirect_text_loss": distance(U, NEAR_TEXT),
        "redirect_image_loss": distance(G, NEAR_IMAGE),
        "cross_text_loss": prefer("text_generated", NEAR_IMAGE, "image_generated"),
        "cross_image_loss": prefer("image_generated", NEAR_TEXT, "text_generated"),
    },
    "shield_clip": {
        **PRESERVE,
        **ANCHOR,
        "redirect_text_loss": distance(U, S0, [0, 1]),
        "redirect_image_loss": distance(G, V0, [0, 2]),
        "mixed_text_loss": nce(U, G0, [1]),
        "mixed_image_loss": nce(G, U0, [2]),
        "coherent_loss": nce(U, G, [0]),
    },
    "relative": {
        **PRESERVE,
        **ALIGN,
        **ANCHOR,
        "redirect_text_loss": distance(U, NEAR_TEXT, [0, 1]),
        "redirect_image_loss": distance(G, NEAR_IMAGE, [0, 2]),
        "relative_text_loss": relative("text_generated", NEAR_IMAGE, "image_generated", [0, 1], [0, 2]),
        "relative_image_loss": relative("image_generated", NEAR_TEXT, "text_generated", [0, 2], [0, 1]),
    },
}


@pytest.mark.parametrize("name", BY_HAND)
def test_every_term_has_the_value_worked_out_by_hand(name):
    losses = OBJECTIVES[name].losses(plane_batch())
    assert {term: value.item() for term, value in losses.items()} == pytest.approx(BY_HAND[name], rel=1e-9)


def test_two_of_those_values_as_plain_numbers():
    # 1 - cos of 10, 5, 5 and 5 degrees, and of 10, 15, 5 and 5
    assert PRESERVE["preserve_text_loss"] == pytest.approx((0.0151922 + 3 * 0.0038053) / 4, abs=1e-7)
    assert PRESERVE["preserve_image_loss"] == pytest.approx(
        (0.0151922 + 0.0340742 + 2 * 0.0038053) / 4, abs=1e-7
    )


def random_batch(rows: int, text: Sequence[bool], image: Sequence[bool], inputs: Sequence[Tensor]) -> Batch:
    generator = torch.Generator().manual_seed(11)

    def unit(*shape: int) -> Tensor:
        return F.normalize(torch.randn(*shape, generator=generator, dtype=torch.float64), dim=-1)

    teacher = Quadruplets(*(unit(rows, 5) for _ in range(4)))
    student = Quadruplets(*(F.normalize(value, dim=-1) for value in inputs))
    labels = (torch.tensor(text), torch.tensor(image))
    return Batch(student, teacher, unit(rows, 5), unit(rows, 5), *labels, unit(5))


def total_of(name: str, text: Sequence[bool], image: Sequence[bool]) -> Callable[..., Tensor]:
    objective = OBJECTIVES[name]

    def total(*inputs: Tensor) -> Tensor:
        losses = objective.losses(random_batch(len(text), text, image, inputs))
        # at the scale of 100 a step of 1e-6 is still small, the weights are the objective's own
        return sum(objective.weights[term] * value for term, value in losses.items())

    return total


@pytest.mark.parametrize("name", OBJECTIVES)
@pytest.mark.parametrize(
    ("text", "image"),
    [(TEXT_UNSAFE, IMAGE_UNSAFE), ((True,) * 4, (False,) * 4), ((False,) * 4, (False,) * 4)],
    ids=["all four states", "captions alone unsafe", "nothing unsafe"],
)
def test_gradients_are_the_numerical_ones(name, text, image):
    generator = torch.Generator().manual_seed(12)
    inputs = [torch.randn(4, 5, generator=generator, dtype=torch.float64).requires_grad_() for _ in range(4)]
    assert torch.autograd.gradcheck(total_of(name, tuple(text), tuple(image)), inputs, atol=1e-4, rtol=1e-3)


@pytest.mark.parametrize("name", OBJECTIVES)
def test_the_order_of_a_batch_does_not_change_the_loss(name):
    generator = torch.Generator().manual_seed(13)
    inputs = [torch.randn(8, 5, generator=generator, dtype=torch.float64) for _ in range(4)]
    text, image = zip(*STATES, *STATES, strict=True)
    batch = random_batch(8, text, image, inputs)
    order = torch.randperm(8, generator=generator)
    moved = {
        field.name: getattr(batch, field.name)[order]
        for field in dataclasses.fields(Batch)
        if field.name not in ("student", "teacher", "axis")
    }
    for side in ("student", "teacher"):
        parts = dataclasses.asdict(getattr(batch, side))
        moved[side] = Quadruplets(**{part: value[order] for part, value in parts.items()})
    before = OBJECTIVES[name].losses(batch)
    after = OBJECTIVES[name].losses(Batch(**moved, axis=batch.axis))
    assert {k: v.item() for k, v in after.items()} == pytest.approx({k: v.item() for k, v in before.items()})


@pytest.mark.parametrize("name", ["shield_clip", "relative", "opposed"])
@pytest.mark.parametrize("modality", ["text", "image"])
def test_a_subset_that_a_batch_lacks_adds_exactly_nothing(name, modality):
    generator = torch.Generator().manual_seed(14)
    inputs = [torch.randn(6, 5, generator=generator, dtype=torch.float64).requires_grad_() for _ in range(4)]
    unsafe = {"text": [True] * 6, "image": [True] * 6, modality: [False] * 6}
    batch = random_batch(6, unsafe["text"], unsafe["image"], inputs)
    losses = OBJECTIVES[name].losses(batch)
    absent = [f"redirect_{modality}_loss", f"relative_{modality}_loss", f"mixed_{modality}_loss"]
    absent += [f"anchor_{other}_loss" for other in ("text", "image") if other != modality]
    absent += ["coherent_loss"]
    present = [term for term in absent if term in losses]
    assert len(present) >= 2
    assert [losses[term].item() for term in present] == [0.0] * len(present)
    gradients = torch.autograd.grad(sum(losses[term] for term in present), inputs, allow_unused=True)
    assert all(gradient is None or not gradient.any() for gradient in gradients)


def test_weights_scale_their_own_term_alone():
    weights = resolve_weights(OBJECTIVES["safe_clip"], {"cross_image_loss": 0.0})
    losses = OBJECTIVES["safe_clip"].losses(plane_batch())
    with_all = sum(OBJECTIVES["safe_clip"].weights[term] * loss for term, loss in losses.items())
    without = sum(weights[term] * loss for term, loss in losses.items())
    share = OBJECTIVES["safe_clip"].weights["cross_image_loss"] * losses["cross_image_loss"]
    assert (with_all - without).item() == pytest.approx(share.item())
