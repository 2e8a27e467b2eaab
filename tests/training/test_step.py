"""The gradient of a batch is the same in one piece, in many, with dropout, and with less memory."""

from __future__ import annotations

import copy

import pytest
import torch
from torch import nn

from safeclip.encoders.lora import adapter_parameters, add_lora
from safeclip.training.objectives import OBJECTIVES
from safeclip.training.step import accumulate_gradients, embed_rows, make_batch

INDEX = torch.tensor([3, 17, 8, 0, 21, 5, 11])


@pytest.fixture
def student(encoder):
    """An adapted copy whose factors are all alive."""
    model = copy.deepcopy(encoder.model)
    add_lora(model, rank=4, alpha=4)
    generator = torch.Generator().manual_seed(2)
    with torch.no_grad():
        for parameter in adapter_parameters(model).values():
            parameter.normal_(std=0.1, generator=generator)
    return model


def gradients(model, rows, name, **options) -> tuple[float, torch.Tensor]:
    """Total loss and all gradients as one vector, from the same random state."""
    torch.manual_seed(4)
    model.zero_grad()
    objective = OBJECTIVES[name]
    total, _ = accumulate_gradients(model, rows, INDEX, objective.losses, objective.weights, **options)
    return total.item(), torch.cat([p.grad.flatten() for p in adapter_parameters(model).values()])


def directly(model, rows, name) -> torch.Tensor:
    """The gradient by one backward pass through everything, no cache of embeddings in between."""
    torch.manual_seed(4)
    model.zero_grad()
    losses = OBJECTIVES[name].losses(make_batch(embed_rows(model, rows, INDEX), rows, INDEX))
    sum(OBJECTIVES[name].weights[term] * loss for term, loss in losses.items()).backward()
    return torch.cat([p.grad.flatten() for p in adapter_parameters(model).values()])


def nearly_equal(a: torch.Tensor, b: torch.Tensor) -> bool:
    return bool((a - b).abs().max() <= 1e-5 * b.abs().max())


def with_dropout(model) -> None:
    """Dropout in both towers, on although the model is in eval mode."""
    for transformer in (model.transformer, model.visual.transformer):
        for block in transformer.resblocks:
            block.mlp.gelu = nn.Sequential(block.mlp.gelu, nn.Dropout(0.3).train())


@pytest.mark.parametrize("name", OBJECTIVES)
def test_pieces_give_the_gradient_of_the_whole_batch(student, splits, name):
    whole_loss, whole = gradients(student, splits[0], name)
    assert nearly_equal(whole, directly(student, splits[0], name))
    for micro_batch in (1, 3):
        loss, pieces = gradients(student, splits[0], name, micro_batch=micro_batch)
        assert loss == pytest.approx(whole_loss, rel=1e-5)
        assert nearly_equal(pieces, whole)


def test_a_piece_sees_the_same_dropout_when_it_is_embedded_again(student, splits):
    with_dropout(student)
    _, first = gradients(student, splits[0], "opposed", micro_batch=3)
    _, again = gradients(student, splits[0], "opposed", micro_batch=3)
    assert torch.equal(first, again)
    # the cached embeddings' gradient went through other masks if the state was not replayed
    expected = with_the_pieces_in_one_graph(student, splits[0], "opposed", 3)
    assert nearly_equal(first, expected)


def with_the_pieces_in_one_graph(model, rows, name, micro_batch) -> torch.Tensor:
    """The same draws of dropout, but the graph of every piece kept: what the cache must reproduce."""
    torch.manual_seed(4)
    model.zero_grad()
    parts = [embed_rows(model, rows, piece) for piece in INDEX.split(micro_batch)]
    names = ("text_safe", "text_generated", "image_safe", "image_generated")
    joined = type(parts[0])(**{n: torch.cat([getattr(part, n) for part in parts]) for n in names})
    losses = OBJECTIVES[name].losses(make_batch(joined, rows, INDEX))
    sum(OBJECTIVES[name].weights[term] * loss for term, loss in losses.items()).backward()
    return torch.cat([p.grad.flatten() for p in adapter_parameters(model).values()])


def test_recomputed_activations_give_the_same_gradient(student, splits):
    _, kept = gradients(student, splits[0], "opposed")
    student.set_grad_checkpointing(True)
    _, recomputed = gradients(student, splits[0], "opposed")
    assert nearly_equal(recomputed, kept)
