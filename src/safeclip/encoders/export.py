"""Convert a CLIP between open_clip and transformers, and give a diffusers pipeline its text encoder.

The activation, the layer norms' epsilon, the heads and the token that the text is pooled at are read off the
model itself and never assumed: a CLIP that runs with the other GELU answers a little wrong everywhere and
raises nothing. What transformers' CLIP cannot express is refused.

Weights differ in their names, and in two things more. open_clip packs the projections of queries, keys and
values in one matrix [3 W, W], and keeps the last projection of each tower as [W, D]; transformers has it as a
linear layer's [D, W]. Diffusers' text encoders are transformers' text tower alone (prefix `text_model.` or
none).
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any, TypeVar

import torch
from open_clip.model import CLIP
from open_clip.transformer import QuickGELU, ResidualAttentionBlock, VisionTransformer
from torch import Tensor, nn
from transformers import (
    CLIPConfig,
    CLIPModel,
    CLIPTextConfig,
    CLIPTextModel,
    CLIPTextModelWithProjection,
    CLIPVisionConfig,
    PreTrainedModel,
)

from safeclip.core.errors import ModelError
from safeclip.encoders.text_tower import accept_cut_text

TEXT_PREFIX = "text_model."
_TOWERS = (("visual.transformer.", "vision_model.encoder."), ("transformer.", f"{TEXT_PREFIX}encoder."))
_SINGLE = (
    ("logit_scale", "logit_scale"),
    ("token_embedding.weight", f"{TEXT_PREFIX}embeddings.token_embedding.weight"),
    ("positional_embedding", f"{TEXT_PREFIX}embeddings.position_embedding.weight"),
    ("ln_final.weight", f"{TEXT_PREFIX}final_layer_norm.weight"),
    ("ln_final.bias", f"{TEXT_PREFIX}final_layer_norm.bias"),
    ("text_projection", "text_projection.weight"),
    ("visual.class_embedding", "vision_model.embeddings.class_embedding"),
    ("visual.positional_embedding", "vision_model.embeddings.position_embedding.weight"),
    ("visual.conv1.weight", "vision_model.embeddings.patch_embedding.weight"),
    ("visual.ln_pre.weight", "vision_model.pre_layrnorm.weight"),  # transformers' own spelling
    ("visual.ln_pre.bias", "vision_model.pre_layrnorm.bias"),
    ("visual.ln_post.weight", "vision_model.post_layernorm.weight"),
    ("visual.ln_post.bias", "vision_model.post_layernorm.bias"),
    ("visual.proj", "visual_projection.weight"),
)
_TRANSPOSED = {"text_projection", "visual.proj"}
_BLOCK = (
    ("ln_1", "layer_norm1"),
    ("ln_2", "layer_norm2"),
    ("attn.out_proj", "self_attn.out_proj"),
    ("mlp.c_fc", "mlp.fc1"),
    ("mlp.c_proj", "mlp.fc2"),
)
_PARTS = ("q", "k", "v")


def to_transformers(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Rename open_clip's state of a CLIP to that of transformers' `CLIPModel`.

    Names that are not in the table stay as they are, so that loading them fails.
    """
    single = dict(_SINGLE)
    renamed: dict[str, Tensor] = {}
    for name, tensor in state.items():
        if name in single:
            renamed[single[name]] = tensor.T if name in _TRANSPOSED else tensor
        elif packed := re.fullmatch(r"(.*)resblocks\.(\d+)\.attn\.in_proj_(weight|bias)", name):
            tower, layer, kind = packed.groups()
            for part, rows in zip(_PARTS, tensor.chunk(3), strict=True):
                renamed[f"{dict(_TOWERS)[tower]}layers.{layer}.self_attn.{part}_proj.{kind}"] = rows
        else:
            renamed[_block_name(name, "resblocks", "layers", _TOWERS, _BLOCK)] = tensor
    return {name: tensor.contiguous() for name, tensor in renamed.items()}


def to_open_clip(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Rename the state of transformers' `CLIPModel` to open_clip's."""
    single = {ours: theirs for theirs, ours in _SINGLE}
    towers, block = tuple((b, a) for a, b in _TOWERS), tuple((b, a) for a, b in _BLOCK)
    renamed: dict[str, Tensor] = {}
    for name, tensor in state.items():
        if name in single:
            renamed[single[name]] = tensor.T if single[name] in _TRANSPOSED else tensor
        elif part := re.fullmatch(r"(.*)layers\.(\d+)\.self_attn\.q_proj\.(weight|bias)", name):
            tower, layer, kind = part.groups()
            rows = [state[name.replace("q_proj", f"{which}_proj")] for which in _PARTS]
            renamed[f"{dict(towers)[tower]}resblocks.{layer}.attn.in_proj_{kind}"] = torch.cat(rows)
        elif not re.search(r"\.self_attn\.[kv]_proj\.", name):
            renamed[_block_name(name, "layers", "resblocks", towers, block)] = tensor
    return {name: tensor.contiguous() for name, tensor in renamed.items()}


def _block_name(
    name: str, old: str, new: str, towers: tuple[tuple[str, str], ...], block: tuple[tuple[str, str], ...]
) -> str:
    match = re.fullmatch(rf"(.*){old}\.(\d+)\.(.*)\.(weight|bias)", name)
    if match is None or match[1] not in dict(towers) or match[3] not in dict(block):
        return name
    return f"{dict(towers)[match[1]]}{new}.{match[2]}.{dict(block)[match[3]]}.{match[4]}"


# configurations written before 2023 name this id, and mean "the highest id of the row"
LEGACY_END = 2
TextEncoder = TypeVar("TextEncoder", CLIPTextModel, CLIPTextModelWithProjection)


def to_clip_model(model: CLIP) -> CLIPModel:
    """Convert open_clip's CLIP (both towers plain) to transformers' `CLIPModel`, fp32, in eval mode.

    `ModelError` names what transformers' CLIP has no place for (an adapter that is not merged, another
    pooling, a tower of another kind).
    """
    _check_plain(model)
    text, vision = text_config(model), _vision_config(model)
    config = CLIPConfig(
        text_config=text.to_dict(),
        vision_config=vision.to_dict(),
        projection_dim=text.projection_dim,
        logit_scale_init_value=float(model.logit_scale.detach()),
    )
    return _filled(CLIPModel(config), to_transformers(_state(model)))


def to_text_encoder(model: CLIP, layers: int | None = None) -> CLIPTextModel:
    """Convert the text tower as Stable Diffusion holds it: its first `layers` layers, or all of them."""
    return _text_tower(model, CLIPTextModel, layers)


def to_text_encoder_with_projection(model: CLIP) -> CLIPTextModelWithProjection:
    """Convert the text tower with its projection, the second text encoder of SDXL."""
    return _text_tower(model, CLIPTextModelWithProjection, None)


def text_encoder_like(model: CLIP, present: TextEncoder) -> TextEncoder:
    """Replace a pipeline's text encoder: `pipe.text_encoder = text_encoder_like(model, pipe.text_encoder)`.

    As many layers, and of the kind, device and type of `present`; `ModelError` where the two are not the
    same architecture (then the pipeline was not trained on this encoder).
    """
    layers = present.config.num_hidden_layers
    encoder = _text_tower(model, type(present), layers)
    for key in ("vocab_size", "hidden_size", "max_position_embeddings", "hidden_act", "num_attention_heads"):
        ours, theirs = getattr(encoder.config, key), getattr(present.config, key)
        if ours != theirs:
            raise ModelError(
                f"the encoder has {key} {ours}, the pipeline's text encoder {theirs}; "
                "use a pipeline that was trained on this encoder"
            )
    return encoder.to(  # type: ignore[call-arg]
        device=present.device, dtype=present.dtype
    )


def to_open_clip_model(model: CLIPModel) -> CLIP:
    """Convert transformers' `CLIPModel` to open_clip's CLIP, fp32, in eval mode; see `open_clip_config`."""
    config = open_clip_config(model.config)
    clip = CLIP(**config)
    _load(clip, to_open_clip(_state(model)))
    accept_cut_text(clip)
    return clip.eval()


def open_clip_config(config: CLIPConfig) -> dict[str, Any]:
    """Return open_clip's `model_cfg` of a transformers CLIP; a `ModelError` for what it cannot express."""
    text: Any = config.text_config
    vision: Any = config.vision_config
    if text.hidden_act != vision.hidden_act or text.hidden_act not in ("gelu", "quick_gelu"):
        raise ModelError(
            f"activations {text.hidden_act} (text) and {vision.hidden_act} (image): open_clip has "
            "gelu or quick_gelu, the same in both; choose another model"
        )
    at_highest = text.eos_token_id in (LEGACY_END, text.vocab_size - 1)
    pooling = {"pool_type": "argmax"} if at_highest else {"pool_type": "eos", "eos_id": text.eos_token_id}
    return {
        "embed_dim": config.projection_dim,
        "quick_gelu": text.hidden_act == "quick_gelu",
        "vision_cfg": {
            "image_size": vision.image_size,
            "patch_size": vision.patch_size,
            "width": vision.hidden_size,
            "head_width": vision.hidden_size // vision.num_attention_heads,
            "layers": vision.num_hidden_layers,
            "mlp_ratio": vision.intermediate_size / vision.hidden_size,
            "norm_kwargs": {"eps": vision.layer_norm_eps},
        },
        "text_cfg": {
            "context_length": text.max_position_embeddings,
            "vocab_size": text.vocab_size,
            "width": text.hidden_size,
            "heads": text.num_attention_heads,
            "layers": text.num_hidden_layers,
            "mlp_ratio": text.intermediate_size / text.hidden_size,
            "norm_kwargs": {"eps": text.layer_norm_eps},
            **pooling,
        },
    }


def text_config(model: CLIP) -> CLIPTextConfig:
    """Read transformers' configuration of the text tower off its modules."""
    blocks, vocabulary = model.transformer.resblocks, model.vocab_size
    end = model.text_eos_id if model.text_pool_type == "eos" else vocabulary - 1
    return CLIPTextConfig(
        vocab_size=vocabulary,
        max_position_embeddings=model.context_length,
        projection_dim=model.text_projection.shape[1],
        bos_token_id=end - 1,
        eos_token_id=end,
        pad_token_id=0,
        **_block_config(blocks[0], len(blocks)),
    )


def _vision_config(model: CLIP) -> CLIPVisionConfig:
    visual = model.visual
    blocks = visual.transformer.resblocks
    return CLIPVisionConfig(
        image_size=visual.image_size[0],
        patch_size=visual.patch_size[0],
        projection_dim=visual.proj.shape[1],
        **_block_config(blocks[0], len(blocks)),
    )


def _block_config(block: ResidualAttentionBlock, layers: int) -> dict[str, Any]:
    return {
        "hidden_size": block.ln_1.normalized_shape[0],
        "intermediate_size": block.mlp.c_fc.out_features,
        "num_hidden_layers": layers,
        "num_attention_heads": block.attn.num_heads,
        "hidden_act": _activation(block.mlp.gelu),
        "layer_norm_eps": block.ln_1.eps,
    }


def _activation(layer: nn.Module) -> str:
    if isinstance(layer, QuickGELU):
        return "quick_gelu"
    if isinstance(layer, nn.GELU):
        return "gelu" if layer.approximate == "none" else "gelu_pytorch_tanh"
    raise ModelError(f"activation {type(layer).__name__} is not one of CLIP's; choose a GELU model")


def _check_plain(model: nn.Module) -> None:
    """Refuse what transformers' CLIP would compute differently without an error."""
    faults = {
        "no CLIP of two plain towers": not isinstance(model, CLIP)
        or not isinstance(model.visual, VisionTransformer),
        "an adapter that is not merged": any("lora_" in name for name, _ in model.named_parameters()),
    }
    if not any(faults.values()):
        assert isinstance(model, CLIP)
        faults |= {
            "text that is not causal": model.attn_mask is None,
            "a text pooling other than at the end token": model.text_pool_type not in ("argmax", "eos"),
            "a text projection that is no plain matrix": not isinstance(model.text_projection, Tensor),
            "an image pooling other than the class token": model.visual.pool_type != "tok"
            or model.visual.attn_pool is not None,
        }
    for fault, present in faults.items():
        if present:
            raise ModelError(f"{type(model).__name__} has {fault}: transformers' CLIP cannot express it; "
                             "merge the adapter or choose a plain CLIP")  # fmt: skip


def _text_tower(model: CLIP, kind: type[TextEncoder], layers: int | None) -> TextEncoder:
    _check_plain(model)
    config = text_config(model)
    depth = config.num_hidden_layers if layers is None else layers
    if not 1 <= depth <= config.num_hidden_layers:
        raise ModelError(f"{depth} layers asked of a text tower of {config.num_hidden_layers}; ask for fewer")
    config.num_hidden_layers = depth
    dropped = tuple(
        f"{TEXT_PREFIX}encoder.layers.{n}." for n in range(depth, len(model.transformer.resblocks))
    )
    state = {n: t for n, t in to_transformers(_state(model)).items() if not n.startswith(dropped or ("\0",))}
    if kind is CLIPTextModelWithProjection:
        kept = {n: t for n, t in state.items() if n.startswith((TEXT_PREFIX, "text_projection."))}
    else:
        kept = {n.removeprefix(TEXT_PREFIX): t for n, t in state.items() if n.startswith(TEXT_PREFIX)}
    return _filled(kind(config), kept)


Model = TypeVar("Model", bound=PreTrainedModel)


def _filled(model: Model, state: dict[str, Tensor]) -> Model:
    _load(model, state)
    return model.eval()


def _load(model: nn.Module, state: dict[str, Tensor]) -> None:
    try:
        model.load_state_dict(state)
    except RuntimeError as error:
        lines = [line.strip() for line in str(error).splitlines()[1:] if line.strip()]
        raise ModelError(
            f"the weights do not fit {type(model).__name__} ({' '.join(lines)[:160]}); choose a plain CLIP"
        ) from None


@torch.no_grad()
def _state(model: nn.Module) -> dict[str, Tensor]:
    return {name: tensor.detach().float() for name, tensor in model.state_dict().items()}
