"""LoRA on open_clip models: same outputs at the start, exact merging, adapters that know their base."""

from __future__ import annotations

import copy

import pytest
import torch
from open_clip.model import CLIP
from torch import Tensor

from safeclip.core.errors import ModelError
from safeclip.encoders.export_folder import save_like
from safeclip.encoders.lora import (
    adapter_metadata,
    adapter_parameters,
    add_lora,
    load_adapter,
    load_candidate,
    merge,
    save_adapter,
)
from tests.training.tiny import tiny_encoder, write_tiny_encoder

CAPTIONS = ["a dog near the river", "a boat"]


@pytest.fixture
def encoder(tmp_path):
    return tiny_encoder(tmp_path / "base")


def outputs(model, tokens) -> Tensor:
    pixels = torch.rand(3, 3, 16, 16, generator=torch.Generator().manual_seed(1))
    with torch.no_grad():
        return torch.cat([model.encode_text(tokens), model.encode_image(pixels)])


def randomise(model) -> None:
    generator = torch.Generator().manual_seed(2)
    with torch.no_grad():
        for parameter in adapter_parameters(model).values():
            parameter.normal_(std=0.2, generator=generator)


@pytest.mark.parametrize("query", [True, False])
def test_a_new_adapter_changes_no_output(encoder, query):
    tokens = encoder.tokenize(CAPTIONS)
    before = outputs(encoder.model, tokens)
    add_lora(encoder.model, rank=4, alpha=4, query=query)
    assert torch.allclose(outputs(encoder.model, tokens), before, atol=1e-5)


@pytest.mark.parametrize("query", [True, False])
def test_merged_weights_give_the_adapted_outputs_under_the_base_keys(encoder, query):
    tokens = encoder.tokenize(CAPTIONS)
    plain = copy.deepcopy(encoder.model)
    before = outputs(plain, tokens)
    add_lora(encoder.model, rank=4, alpha=8, query=query)
    randomise(encoder.model)
    adapted = outputs(encoder.model, tokens)
    assert (adapted - before).abs().max() > 0.1
    plain.load_state_dict(merge(encoder.model), strict=True)
    assert torch.allclose(outputs(plain, tokens), adapted, atol=1e-5)


def test_only_the_factors_receive_gradients_and_every_factor_does(encoder):
    add_lora(encoder.model, rank=4, alpha=4)
    randomise(encoder.model)
    tokens = encoder.tokenize(CAPTIONS)
    loss = (
        encoder.model.encode_text(tokens).sum() + encoder.model.encode_image(torch.rand(2, 3, 16, 16)).sum()
    )
    loss.backward()
    with_gradient = {name for name, value in encoder.model.named_parameters() if value.grad is not None}
    assert with_gradient == set(adapter_parameters(encoder.model))


def test_both_towers_adapt_attention_mlp_and_patches(encoder):
    add_lora(encoder.model, rank=4, alpha=4)
    names = {name.removesuffix(".lora_a") for name in adapter_parameters(encoder.model)}
    block = ("attn", "attn.out_proj", "mlp.c_fc", "mlp.c_proj")
    towers = ("visual.transformer", "transformer")
    expected = {f"{tower}.resblocks.{n}.{part}" for tower in towers for n in range(2) for part in block}
    assert expected | {"visual.conv1"} == {name for name in names if not name.endswith("lora_b")}


def test_tokens_that_training_never_saw_keep_their_embedding(encoder):
    tokens, before = encoder.tokenize(CAPTIONS), encoder.model.token_embedding.weight.detach().clone()
    add_lora(encoder.model, rank=4, alpha=4, tokens=True)
    factors = adapter_parameters(encoder.model)
    optimizer = torch.optim.Adam(factors.values(), lr=0.1)
    for _ in range(3):
        optimizer.zero_grad()
        encoder.model.encode_text(tokens).square().sum().backward()
        optimizer.step()
    moved = (merge(encoder.model)["token_embedding.weight"] != before).any(dim=1)
    assert set(moved.nonzero()[:, 0].tolist()) == set(tokens.unique().tolist()) - {0}  # padding


def test_the_adapter_comes_back_from_its_file(encoder, tmp_path):
    tokens = encoder.tokenize(CAPTIONS)
    fresh = copy.deepcopy(encoder.model)
    add_lora(encoder.model, rank=4, alpha=8, query=False, tokens=True)
    randomise(encoder.model)
    save_adapter(encoder.model, tmp_path / "adapter.safetensors", base_digest=encoder.digest)
    load_adapter(fresh, tmp_path / "adapter.safetensors", base_digest=encoder.digest)
    assert torch.equal(outputs(fresh, tokens), outputs(encoder.model, tokens))
    metadata = adapter_metadata(tmp_path / "adapter.safetensors")
    assert metadata == {"rank": 4, "alpha": 8, "query": False, "tokens": True, "base_digest": encoder.digest}


def test_the_same_adapter_is_the_same_file_in_every_process(encoder, tmp_path):
    add_lora(encoder.model, rank=4, alpha=4)
    save_adapter(encoder.model, tmp_path / "adapter.safetensors", base_digest=encoder.digest)
    header = (tmp_path / "adapter.safetensors").read_bytes()[8:]
    # several metadata keys would be written in an order that differs from process to process
    assert header.startswith(b'{"__metadata__":{"safeclip-lora-1":')


def test_a_candidate_is_a_plain_encoder_that_can_be_saved_and_loaded(encoder, tmp_path):
    base = tmp_path / "base"
    add_lora(encoder.model, rank=4, alpha=4)
    randomise(encoder.model)
    save_adapter(encoder.model, tmp_path / "adapter.safetensors", base_digest=encoder.digest)
    candidate = load_candidate(base, tmp_path / "adapter.safetensors")
    tokens = encoder.tokenize(CAPTIONS)
    assert isinstance(candidate.model, CLIP)
    assert candidate.digest != encoder.digest
    assert torch.allclose(outputs(candidate.model, tokens), outputs(encoder.model, tokens), atol=1e-5)
    save_like(candidate.model, base, tmp_path / "merged")
    again = tiny_load(tmp_path / "merged")
    assert torch.equal(outputs(again.model, tokens), outputs(candidate.model, tokens))


def test_an_adapter_of_another_base_is_refused(encoder, tmp_path):
    add_lora(encoder.model, rank=4, alpha=4)
    save_adapter(encoder.model, tmp_path / "adapter.safetensors", base_digest=encoder.digest)
    other = write_tiny_encoder(tmp_path / "other", seed=1)
    with pytest.raises(ModelError, match=r"made for base encoder .* fine-tune again"):
        load_candidate(other, tmp_path / "adapter.safetensors")


def test_a_second_adapter_a_missing_and_a_broken_file_are_refused(encoder, tmp_path):
    with pytest.raises(ModelError, match="carries no adapter"):
        save_adapter(encoder.model, tmp_path / "none.safetensors", base_digest="0")
    with pytest.raises(ModelError, match="no such adapter"):
        load_adapter(encoder.model, tmp_path / "none.safetensors", base_digest="0")
    (tmp_path / "broken.safetensors").write_bytes(b"not safetensors")
    with pytest.raises(ModelError, match="not readable as safetensors"):
        load_adapter(encoder.model, tmp_path / "broken.safetensors", base_digest="0")
    add_lora(encoder.model, rank=4, alpha=4)
    with pytest.raises(ModelError, match="already carries an adapter"):
        add_lora(encoder.model, rank=4, alpha=4)


def test_a_model_without_a_vit_is_refused():
    vision = {"image_size": 32, "layers": [1, 1, 1, 1], "width": 8}
    text = {"context_length": 8, "vocab_size": 64, "width": 16, "heads": 2, "layers": 1}
    model = CLIP(embed_dim=16, vision_cfg=vision, text_cfg=text)
    with pytest.raises(ModelError, match="not a ViT with a text transformer"):
        add_lora(model, rank=4, alpha=4)
    assert not adapter_parameters(model)  # refused before anything was changed


def tiny_load(folder):
    from safeclip.encoders.load import load_encoder

    return load_encoder(folder)
