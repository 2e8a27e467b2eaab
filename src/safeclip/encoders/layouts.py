"""The names of one CLIP's weights in open_clip and in transformers, and back.

Beside the names two things differ: open_clip packs the projections of queries, keys and values in one matrix
[3 W, W] and keeps the last projection of each tower as [W, D], transformers as a linear layer's [D, W].
Diffusers' text encoders are transformers' text tower alone (`text_model.` or no prefix at all).
"""

from __future__ import annotations

import re
from collections.abc import Mapping

import torch
from torch import Tensor

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
    """open_clip's state of a CLIP -> that of transformers' `CLIPModel`.

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
    """transformers' `CLIPModel` state, or that of a text tower with its prefix -> open_clip's."""
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
