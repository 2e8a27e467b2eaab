"""Objectives: the equations, who is moved, and batches in which a group is empty."""

from __future__ import annotations

import dataclasses

import pytest
import torch
from torch.nn import functional as F

from safeclip.core.errors import SettingsError
from safeclip.training.loop import finetune
from safeclip.training.objectives import (
    OBJECTIVES,
    Batch,
    Objective,
    Quadruplets,
    find_objective,
    resolve_weights,
)
from safeclip.training.objectives.opposed import OFFSET_IMAGE, OFFSET_TEXT
from safeclip.training.objectives.terms import (
    contrastive_nll,
    cosine_distance,
    info_nce,
    relation_distillation,
)
from tests.training.train_tiny import RECIPE

ROWS, WIDTH = 6, 8


def unit(generator) -> torch.Tensor:
    return F.normalize(torch.randn(ROWS, WIDTH, generator=generator), dim=-1)


def make_batch(text_unsafe, image_unsafe) -> Batch:
    generator = torch.Generator().manual_seed(0)
    student = Quadruplets(*(unit(generator).requires_grad_() for _ in range(4)))
    teacher = Quadruplets(*(unit(generator) for _ in range(4)))
    labels = (torch.tensor(text_unsafe), torch.tensor(image_unsafe))
    return Batch(student, teacher, unit(generator), unit(generator), *labels, unit(generator)[0])


@pytest.mark.parametrize("name", OBJECTIVES)
@pytest.mark.parametrize("text", [True, False])
@pytest.mark.parametrize("image", [True, False])
def test_every_loss_is_named_weighted_and_finite_when_a_group_is_empty(name, text, image):
    objective = OBJECTIVES[name]
    batch = make_batch([text] * ROWS, [image] * ROWS)
    losses = objective.losses(batch)
    assert set(losses) == set(objective.weights)
    assert all(loss_name.endswith("_loss") for loss_name in losses)
    sum(losses.values()).backward()
    for field in dataclasses.fields(Quadruplets):
        gradient = getattr(batch.student, field.name).grad
        assert gradient is None or torch.isfinite(gradient).all()


def test_without_unsafe_items_relative_redirects_nothing():
    losses = OBJECTIVES["relative"].losses(make_batch([False] * ROWS, [False] * ROWS))
    for name in ("redirect_text_loss", "redirect_image_loss", "relative_text_loss", "relative_image_loss"):
        assert losses[name].item() == 0.0
    assert losses["anchor_text_loss"].item() > 0.0


def test_relative_moves_a_generated_item_only_as_its_own_label_says():
    batch = make_batch([True, False] * 3, [False, False, True] * 2)
    losses = OBJECTIVES["relative"].losses(batch)
    redirecting = [loss for name, loss in losses.items() if name.startswith(("redirect", "relative"))]
    sum(redirecting).backward()
    text, image = batch.student.text_generated.grad, batch.student.image_generated.grad
    assert torch.equal(text.abs().sum(dim=1) > 0, batch.text_unsafe)
    assert torch.equal(image.abs().sum(dim=1) > 0, batch.image_unsafe)


def test_relative_equals_its_formula():
    generator = torch.Generator().manual_seed(3)
    query, positive, negatives = unit(generator), unit(generator), unit(generator)
    rows, columns = torch.tensor([1, 0, 1, 1, 0, 0]).bool(), torch.tensor([0, 1, 1, 0, 0, 1]).bool()
    expected = []
    for row in torch.where(rows)[0]:
        wanted = torch.exp(50 * query[row] @ positive[row])
        unwanted = torch.exp(50 * negatives[columns] @ query[row]).sum()
        expected.append(-torch.log(wanted / (wanted + unwanted)))
    result = contrastive_nll(query, positive, negatives, scale=50.0, rows=rows, columns=columns)
    assert result.item() == pytest.approx(torch.stack(expected).mean().item(), rel=1e-4)


def test_info_nce_is_low_for_matching_pairs_and_zero_for_none():
    generator = torch.Generator().manual_seed(4)
    a = unit(generator)
    assert info_nce(a, a).item() < 1e-3 < info_nce(a, a.roll(1, 0)).item()
    assert info_nce(a, a, mask=torch.zeros(ROWS, dtype=torch.bool)).item() == 0.0


def test_relations_are_kept_where_the_student_ranks_as_the_teacher_does():
    generator = torch.Generator().manual_seed(4)
    student, teacher, gallery = unit(generator), unit(generator), unit(generator)
    assert relation_distillation(teacher, teacher, gallery).item() == pytest.approx(0.0, abs=1e-6)
    ours, theirs = (torch.softmax(3.0 * items @ gallery.T, dim=1) for items in (student, teacher))
    expected = (theirs * (theirs / ours).log()).sum(dim=1).mean()
    assert relation_distillation(student, teacher, gallery, scale=3.0).item() == pytest.approx(
        expected.item(), rel=1e-4
    )


def test_a_weight_for_an_unknown_loss_is_refused_with_the_known_names():
    with pytest.raises(SettingsError, match=r"finetune.weights.nonsense_loss.*redirect_text_loss"):
        resolve_weights(OBJECTIVES["safe_clip"], {"nonsense_loss": 1.0})
    assert resolve_weights(OBJECTIVES["safe_clip"], {"redirect_text_loss": 9.0})["redirect_text_loss"] == 9.0


def test_an_unknown_objective_is_refused_with_the_known_names():
    with pytest.raises(SettingsError, match=r"^`finetune.objective` = 'magic': .*relative, safe_clip"):
        find_objective("magic")


def test_an_objective_that_is_registered_by_one_line_trains(encoder, splits, tmp_path, monkeypatch):
    def losses(batch: Batch) -> dict[str, torch.Tensor]:
        return {"toy_loss": cosine_distance(batch.student.text_generated, batch.teacher.text_safe)}

    monkeypatch.setitem(OBJECTIVES, "toy", Objective(losses, {"toy_loss": 1.0}))
    recipe = RECIPE.model_validate({**RECIPE.model_dump(), "objective": "toy", "steps": 30})
    outcome = finetune(encoder, *splits, recipe, seed=0, folder=tmp_path / "run")
    assert outcome.history[-1]["toy_loss"] < 0.9 * outcome.history[0]["toy_loss"]


def embeddings(**chosen: torch.Tensor) -> Quadruplets:
    names = ("text_safe", "text_generated", "image_safe", "image_generated")
    return Quadruplets(*(chosen[name] for name in names))


def test_at_its_optimum_opposed_makes_every_unsafe_item_lose_to_its_safe_one():
    generator = torch.Generator().manual_seed(5)
    axis = torch.zeros(WIDTH)
    axis[0] = 1.0
    safe = F.normalize(torch.cat([torch.zeros(ROWS, 1), unit(generator)[:, 1:]], dim=1), dim=-1)
    unsafe_text = F.normalize(safe + OFFSET_TEXT * axis, dim=-1)
    unsafe_image = F.normalize(safe - OFFSET_IMAGE * axis, dim=-1)
    student = embeddings(
        text_safe=safe, text_generated=unsafe_text, image_safe=safe, image_generated=unsafe_image
    )
    teacher = embeddings(text_safe=safe, text_generated=safe, image_safe=safe, image_generated=safe)
    everything = torch.ones(ROWS, dtype=torch.bool)
    losses = OBJECTIVES["opposed"].losses(Batch(student, teacher, safe, safe, everything, everything, axis))
    assert losses["redirect_text_loss"].item() == pytest.approx(0.0, abs=1e-6)
    assert losses["redirect_image_loss"].item() == pytest.approx(0.0, abs=1e-6)
    own = (unsafe_text * safe).sum(dim=1)
    assert torch.allclose(own, torch.full((ROWS,), 0.2**0.5), atol=1e-6)
    assert (unsafe_text @ unsafe_image.T).max() < own.min() - 0.4
    assert ((unsafe_image * safe).sum(dim=1) > (unsafe_image @ unsafe_text.T).max()).all()


def test_opposed_moves_a_generated_item_only_as_its_own_label_says():
    batch = make_batch([True, False] * 3, [False, False, True] * 2)
    losses = OBJECTIVES["opposed"].losses(batch)
    (losses["redirect_text_loss"] + losses["redirect_image_loss"]).backward()
    assert torch.equal(batch.student.text_generated.grad.abs().sum(dim=1) > 0, batch.text_unsafe)
    assert torch.equal(batch.student.image_generated.grad.abs().sum(dim=1) > 0, batch.image_unsafe)
