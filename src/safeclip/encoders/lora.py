"""Add LoRA adapters to open_clip models; save, load and merge them.

The adapted layers are the ones that carry the weights of a ViT and of a text transformer: q (optional), k, v
and the output of every attention, both MLP layers, the patch embedding and, if asked, the table of tokens.
Everything else stays frozen.
`add_lora` changes the model IN PLACE: whoever needs the base beside it (a teacher) deep-copies first.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
from open_clip.model import CLIP
from open_clip.transformer import ResidualAttentionBlock
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor, nn

from safeclip.core.errors import ModelError
from safeclip.core.files import replacing
from safeclip.encoders.load import Encoder, load_encoder
from safeclip.encoders.lora_layers import (
    LoraAttention,
    LoraLayer,
    LoraLinear,
    LoraPatchEmbedding,
    LoraTokens,
)

FORMAT = "safeclip-lora-1"


def add_lora(
    model: CLIP, rank: int, alpha: float, *, query: bool = True, tokens: bool = False, seed: int = 0
) -> None:
    """Freeze an open_clip model and put low-rank updates into both towers, in place.

    Args:
        model: an open_clip CLIP with a ViT and a text transformer, of any size.
        rank, alpha: the update is (alpha / rank) B A, A of `rank` rows.
        query: whether the query projection is adapted too (key and value always are).
        tokens: whether the token embedding is adapted too.
        seed: of A's random start; B starts at zero, so the outputs do not change.

    Raises:
        ModelError: a tower holds no layer that can be adapted, or the model is already adapted.
    """
    if any(isinstance(module, LoraLayer) for module in model.modules()):
        raise ModelError("the model already carries an adapter; load the base afresh before adding another")
    blocks, patches = _blocks(model), getattr(model.visual, "conv1", None)
    towers = {name.startswith("visual.") for name, _ in blocks}
    if towers != {True, False} or not isinstance(patches, nn.Conv2d) or patches.bias is not None:
        raise ModelError(
            f"{type(model).__name__} is not a ViT with a text transformer of open_clip; choose such a model"
        )
    model.requires_grad_(False)
    generator = torch.Generator().manual_seed(seed)
    for name, block in blocks:
        _adapt_block(name, block, rank, alpha / rank, generator, query)
    model.visual.conv1 = LoraPatchEmbedding(patches, rank, alpha / rank, generator)
    if tokens:
        model.token_embedding = LoraTokens(model.token_embedding, rank, alpha / rank, generator)
    model.to(model.logit_scale.device)  # the factors are drawn on the CPU, the same on every device


def _config(model: nn.Module) -> dict[str, Any]:
    """Read rank, alpha, query and tokens off an adapted model; all its attention layers are alike."""
    layer = next(layer for _, layer in _lora_layers(model) if isinstance(layer, LoraAttention))
    tokens = isinstance(model.token_embedding, LoraTokens)
    alpha = layer.rank * layer.scale
    return {"rank": layer.rank, "alpha": alpha, "query": layer.parts == 3, "tokens": tokens}


def _blocks(model: nn.Module) -> list[tuple[str, ResidualAttentionBlock]]:
    return [
        (name, block) for name, block in model.named_modules() if isinstance(block, ResidualAttentionBlock)
    ]


def _adapt_block(
    name: str, block: ResidualAttentionBlock, rank: int, scale: float, generator: torch.Generator, query: bool
) -> None:
    attention = block.attn
    if attention.in_proj_weight is None or not attention.batch_first:
        raise ModelError(f"{name}.attn has no packed, batch-first projection; choose another model")
    block.attn = LoraAttention(attention, rank, scale, generator, query)
    block.mlp.c_fc = LoraLinear(block.mlp.c_fc, rank, scale, generator)
    block.mlp.c_proj = LoraLinear(block.mlp.c_proj, rank, scale, generator)


def adapter_parameters(model: nn.Module) -> dict[str, nn.Parameter]:
    """Return the trainable factors by their names in the state dict, sorted; none without an adapter."""
    return {
        name: parameter
        for name, parameter in sorted(model.named_parameters())
        if name.rpartition(".")[2] in ("lora_a", "lora_b")
    }


def save_adapter(model: nn.Module, path: Path, *, base_digest: str) -> None:
    """Write the factors (safetensors, fp32) with rank, alpha and the digest of the base they belong to."""
    factors = {name: value.detach().contiguous() for name, value in adapter_parameters(model).items()}
    if not factors:
        raise ModelError("the model carries no adapter; call add_lora first")
    # one key that holds JSON: safetensors writes several keys in a random order
    metadata = json.dumps({"base_digest": base_digest, **_config(model)}, sort_keys=True)
    with replacing(path) as partial:
        save_file(factors, partial, metadata={FORMAT: metadata})


def adapter_metadata(path: Path) -> dict[str, Any]:
    """Read the file's `rank`, `alpha`, `query`, `tokens`, `base_digest`; `ModelError` if it is no adapter."""
    with _open(path) as file:
        metadata = file.metadata() or {}
    if FORMAT not in metadata:
        raise ModelError(f"{path}: not a safeclip adapter; give the adapter.safetensors of a finetune run")
    return json.loads(metadata[FORMAT])


def load_adapter(model: nn.Module, path: Path, *, base_digest: str) -> None:
    """Put an adapter file onto a base model, in place (`add_lora`, then the file's factors).

    Raises:
        ModelError: the file is missing or unreadable, or was made for another base.
    """
    metadata = adapter_metadata(path)
    if metadata["base_digest"] != base_digest:
        made_for, given = metadata["base_digest"][:12], base_digest[:12]
        raise ModelError(
            f"{path}: made for base encoder {made_for}, but this one is {given}; "
            "fine-tune again or load that base"
        )
    tokens = metadata.get("tokens", False)  # adapters of earlier releases do not say
    add_lora(model, metadata["rank"], metadata["alpha"], query=metadata["query"], tokens=tokens)
    with _open(path) as file:
        factors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
    set_adapter(model, factors)


def set_adapter(model: nn.Module, factors: dict[str, Tensor]) -> None:
    """Copy factors into an adapted model; `ModelError` if names or shapes are not the model's."""
    parameters = adapter_parameters(model)
    if {name: value.shape for name, value in factors.items()} != {
        name: value.shape for name, value in parameters.items()
    }:
        raise ModelError("the adapter's layers are not the model's; was it made for a model of another size?")
    with torch.no_grad():
        for name, parameter in parameters.items():
            parameter.copy_(factors[name])


def merge(model: nn.Module) -> dict[str, Tensor]:
    """Return a plain open_clip state dict: the base's keys, each adapted weight plus its dense update."""
    state = {
        name: value.detach().clone()
        for name, value in model.state_dict().items()
        if name.rpartition(".")[2] not in ("lora_a", "lora_b")
    }
    with torch.no_grad():
        for name, layer in _lora_layers(model):
            state[f"{name}.{layer.weight_name}"] += layer.dense_update()
    return state


def _lora_layers(model: nn.Module) -> Iterator[tuple[str, LoraLayer]]:
    return ((name, module) for name, module in model.named_modules() if isinstance(module, LoraLayer))


def load_candidate(base_spec: str | Path, adapter_path: Path) -> Encoder:
    """Load the base encoder with the adapter merged into its weights: a plain open_clip model again.

    Its digest is a hash of the base's digest and of the adapter file. `ModelError` if the adapter belongs to
    another base.
    """
    adapted, plain = load_encoder(base_spec), load_encoder(base_spec)
    load_adapter(adapted.model, adapter_path, base_digest=adapted.digest)
    plain.model.load_state_dict(merge(adapted.model))
    digest = hashlib.sha256(plain.digest.encode() + Path(adapter_path).read_bytes()).hexdigest()
    return plain.with_model(plain.model, digest)


def _open(path: Path) -> safe_open:
    try:
        return safe_open(path, framework="pt")
    except FileNotFoundError:
        raise ModelError(f"{path}: no such adapter; run the finetune stage first") from None
    except (SafetensorError, OSError) as error:
        raise ModelError(f"{path}: not readable as safetensors ({str(error).splitlines()[0]})") from None
