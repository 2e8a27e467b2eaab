"""Last layers that work for the token that is read alone: the same embeddings, the same gradients."""

from __future__ import annotations

import copy

import pytest
import torch
from open_clip.model import CLIP
from torch import Tensor

from safeclip.encoders.fast_cpu import LastLayer, read_last_tokens
from safeclip.encoders.lora import adapter_parameters, add_lora, merge
from safeclip.encoders.text_tower import accept_cut_text

SIZES = {
    "embed_dim": 24,
    "vision_cfg": {"image_size": 20, "patch_size": 5, "width": 36, "layers": 2, "head_width": 12},
    "text_cfg": {"context_length": 9, "vocab_size": 50, "width": 30, "heads": 5, "layers": 2},
}


def adapted(query: bool, pool: str) -> CLIP:
    torch.manual_seed(0)
    text = SIZES["text_cfg"] | {"pool_type": pool, "eos_id": 49}
    model = CLIP(**(SIZES | {"text_cfg": text})).eval().double()
    accept_cut_text(model)
    add_lora(model, rank=3, alpha=6, query=query, tokens=True)
    generator = torch.Generator().manual_seed(2)
    with torch.no_grad():
        for parameter in adapter_parameters(model).values():
            parameter.normal_(std=0.1, generator=generator)
    return model.double()


def embeddings(model: CLIP) -> Tensor:
    generator = torch.Generator().manual_seed(1)
    pixels = torch.rand(4, 3, 20, 20, generator=generator, dtype=torch.float64)
    tokens = torch.randint(1, 48, (4, 9), generator=generator)
    tokens[range(4), [8, 3, 5, 8]] = 49  # some end early, what stands behind must not matter
    return torch.cat([model.encode_text(tokens), model.encode_image(pixels)])


@pytest.mark.parametrize("query", [True, False])
@pytest.mark.parametrize("pool", ["argmax", "eos"])
@pytest.mark.parametrize("recompute", [True, False])
def test_embeddings_and_gradients_are_those_of_the_whole_layer(query, pool, recompute):
    whole = adapted(query, pool)
    model = copy.deepcopy(whole)
    read_last_tokens(model)
    model.set_grad_checkpointing(recompute)
    model.train(recompute)
    found = []
    for one in (whole, model):
        result = embeddings(one)
        result.sin().sum().backward()
        found.append((result.detach(), {name: p.grad for name, p in adapter_parameters(one).items()}))
    assert torch.allclose(found[0][0], found[1][0], rtol=1e-10)
    for name, gradient in found[0][1].items():
        assert torch.allclose(gradient, found[1][1][name], rtol=1e-8, atol=1e-12), name


def test_names_and_merged_weights_stay():
    whole = adapted(True, "argmax")
    model = copy.deepcopy(whole)
    read_last_tokens(model)
    assert model.state_dict().keys() == whole.state_dict().keys()
    assert all(torch.equal(value, merge(whole)[name]) for name, value in merge(model).items())


def test_towers_that_read_more_than_one_token_are_left_alone():
    model = adapted(True, "argmax")
    model.visual.pool_type = "avg"
    before = embeddings(model)
    read_last_tokens(model)
    assert not isinstance(model.visual.transformer.resblocks[-1], LastLayer)
    assert isinstance(model.transformer.resblocks[-1], LastLayer)
    texts = len(before) // 2
    assert torch.equal(embeddings(model)[texts:], before[texts:])
    assert torch.allclose(embeddings(model)[:texts], before[:texts], rtol=1e-10)
