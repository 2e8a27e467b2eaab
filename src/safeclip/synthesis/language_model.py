"""Load a causal language model, its tokenizer and a tuned adapter; each fault is one line."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from transformers import AutoModelForCausalLM, AutoTokenizer, PreTrainedModel, PreTrainedTokenizerBase
from transformers.utils import logging

from safeclip.errors import ModelError


def load_tokenizer(folder: str) -> PreTrainedTokenizerBase:
    """The model's tokenizer, padding on the left; `ModelError` if it cannot be loaded or cannot chat."""
    try:
        tokenizer = AutoTokenizer.from_pretrained(folder, padding_side="left")
    except (OSError, ValueError) as error:
        raise ModelError(f"{folder}: no tokenizer to load ({_first_line(error)}); check the name") from None
    if tokenizer.chat_template is None:
        raise ModelError(f"{folder}: the tokenizer has no chat template; choose an instruct model")
    tokenizer.pad_token = tokenizer.pad_token or tokenizer.eos_token
    return tokenizer


def load_model(folder: str, dtype: torch.dtype, attention: str = "sdpa") -> PreTrainedModel:
    """The causal language model in evaluation mode; `ModelError` if it cannot be loaded."""
    logging.set_verbosity_error()
    logging.disable_progress_bar()
    try:
        return AutoModelForCausalLM.from_pretrained(folder, dtype=dtype, attn_implementation=attention).eval()
    except (OSError, ValueError) as error:
        raise ModelError(
            f"{folder}: no language model to load ({_first_line(error)}); check the name"
        ) from None


def load_rewriter(folder: str, adapter: Path, dtype: torch.dtype) -> PreTrainedModel:
    """The language model with the adapter merged into its weights (in float32), cast to `dtype`."""
    model: Any = load_model(folder, torch.float32)
    try:
        config = json.loads((adapter / "adapter_config.json").read_text(encoding="utf-8"))
        factors = load_file(adapter / "adapter_model.safetensors")
    except (OSError, ValueError, SafetensorError):
        raise ModelError(f"{adapter}: no adapter to read here; run the stage tune_rewriter") from None
    try:
        _merge(model, factors, scale=config["lora_alpha"] / config["r"])
    except (KeyError, AttributeError, RuntimeError):
        raise ModelError(f"{adapter}: not an adapter of {folder}; run the stage tune_rewriter") from None
    return model.to(dtype).eval()


@torch.no_grad()
def _merge(model: torch.nn.Module, factors: dict[str, torch.Tensor], *, scale: float) -> None:
    """W += scale * B A for every adapted layer (arXiv 2106.09685, section 4.1).

    By hand, since importing peft takes a worker longer than loading the model.
    """
    for name, down in factors.items():
        if ".lora_A." in name:
            up = factors[name.replace(".lora_A.", ".lora_B.")]
            layer: Any = model.get_submodule(name.removeprefix("base_model.model.").partition(".lora_A.")[0])
            layer.weight.add_(scale * (up.float() @ down.float()))


def folder_digest(folder: Path | str) -> str:
    """SHA-256 over names and bytes of a folder's files; of the name itself where there is no such folder."""
    root = Path(folder)
    digest = hashlib.sha256(b"" if root.is_dir() else str(folder).encode())
    for file in sorted(path for path in root.rglob("*") if path.is_file()):
        with file.open("rb") as stream:
            content = hashlib.file_digest(stream, "sha256").hexdigest()
        digest.update(f"{file.relative_to(root)}\0{content}\0".encode())
    return digest.hexdigest()


def _first_line(error: Exception) -> str:
    return str(error).strip().splitlines()[0][:200]
