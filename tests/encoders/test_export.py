"""An exported encoder computes what open_clip computes: activation, pooling, tokenizer, both ways."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import open_clip
import pytest
import torch
from open_clip.model import CLIP
from transformers import AutoTokenizer, CLIPModel, CLIPTextModel, CLIPTextModelWithProjection

from safeclip.core.errors import ModelError
from safeclip.encoders.export import (
    open_clip_config,
    text_encoder_like,
    to_clip_model,
    to_open_clip_model,
    to_text_encoder,
    to_text_encoder_with_projection,
)
from safeclip.encoders.export_folder import write_open_clip, write_tokenizer, write_transformers
from safeclip.encoders.load import Encoder, load_encoder
from safeclip.encoders.lora import add_lora

BASE = Path("data/base_encoder")
CAPTIONS = [
    "a dog",
    "a man walks a dog near the river",
    "Cafés, 2 owls & an <|endoftext|>!",
    "long words " * 40,
]


@pytest.fixture(scope="module")
def encoder() -> Encoder:
    return load_encoder(BASE)


def tiny(quick_gelu: bool = False, **text: Any) -> CLIP:
    """A random CLIP whose weights are large enough for the activation to matter."""
    torch.manual_seed(7)
    model = CLIP(
        embed_dim=16,
        quick_gelu=quick_gelu,
        vision_cfg={"image_size": 32, "patch_size": 8, "width": 32, "head_width": 16, "layers": 2},
        text_cfg={"context_length": 12, "vocab_size": 90, "width": 32, "heads": 2, "layers": 3, **text},
    ).eval()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.2 * torch.randn_like(parameter))
    return model


def inputs(end: int = 89, pad: int = 0) -> tuple[torch.Tensor, torch.Tensor]:
    """Texts of three lengths, the end token not last in the row, and pictures."""
    generator = torch.Generator().manual_seed(3)
    tokens = torch.full((3, 12), pad)
    for row, length in enumerate((2, 5, 12)):
        tokens[row, :length] = torch.randint(3, 80, (length,), generator=generator)
        tokens[row, length - 1] = end
    return tokens, torch.randn(3, 3, 32, 32, generator=generator)


@torch.no_grad()
def difference(ours: CLIP, theirs: CLIPModel, tokens: torch.Tensor, pixels: torch.Tensor) -> float:
    exported = theirs(input_ids=tokens, pixel_values=pixels)
    text, image = ours.encode_text(tokens, normalize=True), ours.encode_image(pixels, normalize=True)
    return max(
        float((exported.text_embeds - text).abs().max()), float((exported.image_embeds - image).abs().max())
    )


@pytest.mark.parametrize("quick_gelu", [False, True])
def test_random_weights_agree_in_text_and_image(quick_gelu: bool) -> None:
    model = tiny(quick_gelu)
    exported = to_clip_model(model)
    assert difference(model, exported, *inputs()) < 1e-5
    assert exported.logit_scale == model.logit_scale
    assert exported.config.text_config.hidden_act == ("quick_gelu" if quick_gelu else "gelu")


def test_another_activation_or_end_token_would_be_seen() -> None:
    model, (tokens, pixels) = tiny(), inputs()
    other = to_clip_model(model)
    other.load_state_dict(to_clip_model(model).state_dict())
    for layer in other.text_model.encoder.layers:
        layer.mlp.activation_fn = to_clip_model(tiny(True)).text_model.encoder.layers[0].mlp.activation_fn
    assert difference(model, other, tokens, pixels) > 1e-3
    moved = to_clip_model(model)
    moved.text_model.eos_token_id = 88
    assert difference(model, moved, tokens, pixels) > 1e-2


def test_pooling_at_a_named_end_token_and_other_epsilons() -> None:
    model = tiny(pool_type="eos", eos_id=5, norm_kwargs={"eps": 1e-3})
    exported = to_clip_model(model)
    assert difference(model, exported, *inputs(end=5, pad=0)) < 1e-5
    assert open_clip_config(exported.config)["text_cfg"]["eos_id"] == 5


@pytest.mark.parametrize("quick_gelu", [False, True])
def test_there_and_back_gives_the_same_bits(quick_gelu: bool) -> None:
    model = tiny(quick_gelu)
    back = to_open_clip_model(to_clip_model(model))
    state = model.state_dict()
    assert back.state_dict().keys() == state.keys()
    assert all(torch.equal(value, state[name]) for name, value in back.state_dict().items())
    tokens, pixels = inputs()
    with torch.no_grad():
        assert torch.equal(back.encode_image(pixels), model.encode_image(pixels))
        assert (back.encode_text(tokens) - model.encode_text(tokens)).abs().max() < 1e-5


def test_old_configurations_pool_at_the_highest_id() -> None:
    config = to_clip_model(tiny()).config
    config.text_config.eos_token_id = 2
    assert open_clip_config(config)["text_cfg"]["pool_type"] == "argmax"


def test_trained_weights_agree_from_the_caption_on(encoder: Encoder, tmp_path: Path) -> None:
    write_transformers(encoder, BASE, "transformers", tmp_path / "clip")
    model = CLIPModel.from_pretrained(tmp_path / "clip").eval()
    tokenizer = AutoTokenizer.from_pretrained(tmp_path / "clip")
    ids = tokenizer(CAPTIONS, padding="max_length", truncation=True, return_tensors="pt").input_ids
    ours = encoder.tokenize(CAPTIONS)
    assert torch.equal(ids[:, : ours.shape[1]], ours)
    assert difference(encoder.model, model, ids, torch.randn(2, 3, 64, 64)) < 1e-5
    assert sorted(p.name for p in tmp_path.iterdir()) == ["clip"]


def test_a_transformers_folder_becomes_an_encoder(encoder: Encoder, tmp_path: Path) -> None:
    write_transformers(encoder, BASE, "transformers", tmp_path / "clip")
    write_open_clip(tmp_path / "clip", tmp_path / "open_clip")
    back = load_encoder(tmp_path / "open_clip")
    tokens = encoder.tokenize(CAPTIONS)
    assert torch.equal(back.tokenize(CAPTIONS), tokens)
    assert repr(back.transform) == repr(encoder.transform)
    with torch.no_grad():
        assert torch.equal(back.model.encode_text(tokens), encoder.model.encode_text(tokens))


@torch.no_grad()
def test_the_text_encoder_of_a_pipeline(encoder: Encoder, tmp_path: Path) -> None:
    write_transformers(encoder, BASE, "text-encoder", tmp_path / "text")
    text = CLIPTextModel.from_pretrained(tmp_path / "text").eval()
    projected = to_text_encoder_with_projection(encoder.model)
    tokens = encoder.tokenizer(CAPTIONS)
    ours = encoder.model.encode_text(tokens)
    assert (projected(tokens).text_embeds - ours).abs().max() < 1e-5
    assert (text(tokens).pooler_output @ encoder.model.text_projection - ours).abs().max() < 1e-5
    assert text.config.eos_token_id == int(tokens.max())


@torch.no_grad()
def test_fewer_layers_as_in_stable_diffusion_2() -> None:
    model, (tokens, _) = tiny(), inputs()
    whole = to_clip_model(model).text_model(tokens, output_hidden_states=True).hidden_states
    shorter = to_text_encoder(model, layers=2)(tokens).last_hidden_state
    assert (model.ln_final(whole[2]) - shorter).abs().max() < 1e-5


def test_swapping_keeps_kind_depth_and_type() -> None:
    model = tiny()
    present = to_text_encoder(model, layers=2).to(torch.bfloat16)
    swapped = text_encoder_like(tiny(), present)
    assert type(swapped) is CLIPTextModel
    assert (swapped.config.num_hidden_layers, swapped.dtype) == (2, torch.bfloat16)
    both = text_encoder_like(model, to_text_encoder_with_projection(model))
    assert type(both) is CLIPTextModelWithProjection


def test_swapping_another_architecture_is_refused() -> None:
    with pytest.raises(ModelError, match=r"hidden_act quick_gelu, the pipeline's text encoder gelu"):
        text_encoder_like(tiny(quick_gelu=True), to_text_encoder(tiny()))
    with pytest.raises(ModelError, match=r"vocab_size 90, .* 91"):
        text_encoder_like(tiny(), to_text_encoder(tiny(vocab_size=91)))
    with pytest.raises(ModelError, match=r"3 layers asked of a text tower of 2"):
        text_encoder_like(tiny(layers=2), to_text_encoder(tiny()))


def test_open_clips_own_vocabulary_is_written_for_transformers(tmp_path: Path) -> None:
    encoder = Encoder(tiny(), open_clip.get_tokenizer("ViT-B-32"), lambda image: image, "", 16, 32, 77)
    write_tokenizer(encoder, "ViT-B-32/openai", tmp_path)
    captions = ["A man isn't near 2 dogs", "naïve  café -- ok?"]
    tokens = AutoTokenizer.from_pretrained(tmp_path)(captions, padding="max_length", return_tensors="pt")
    assert torch.equal(tokens.input_ids, open_clip.get_tokenizer("ViT-B-32")(captions))


def test_what_transformers_cannot_express_is_refused(encoder: Encoder, tmp_path: Path) -> None:
    adapted = tiny()
    add_lora(adapted, rank=2, alpha=2)
    with pytest.raises(ModelError, match="an adapter that is not merged"):
        to_clip_model(adapted)
    with pytest.raises(ModelError, match="text that is not causal"):
        to_clip_model(tiny(no_causal_mask=True))
    with pytest.raises(ModelError, match="a text pooling other than"):
        to_clip_model(tiny(pool_type="last"))
    with pytest.raises(ModelError, match="do not fit CLIPModel"):
        to_clip_model(tiny(ls_init_value=0.1))
    with pytest.raises(ModelError, match="layout 'onnx' is unknown"):
        write_transformers(encoder, BASE, "onnx", tmp_path / "x")
    (tmp_path / "there").mkdir()
    with pytest.raises(ModelError, match="is there already"):
        write_transformers(encoder, BASE, "transformers", tmp_path / "there")
    with pytest.raises(ModelError, match=r"no config\.json"):
        write_open_clip(tmp_path / "there", tmp_path / "y")
    assert not (tmp_path / "x").exists()
