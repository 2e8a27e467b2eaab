"""The tuned rewriter as vLLM is told of it: its adapter beside the base, or merged into a folder of its own.

On a GPU the adapter is served as it is. vLLM's LoRA layers are slow on a CPU, so there the weights are merged
once into a cache folder, keyed by what they are made of.
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
from pathlib import Path

import torch

from safeclip.errors import ModelError
from safeclip.settings.rewrite_captions import RewriteCaptions
from safeclip.synthesis.language_model import folder_digest, load_rewriter, load_tokenizer

CACHE = Path("work/vllm/merged")
_LORA_RANKS = (8, 16, 32, 64, 128, 256, 320, 512)  # what vLLM takes for --max-lora-rank


def served_model(folder: str, adapter: Path, settings: RewriteCaptions) -> list[str]:
    """Arguments that make vLLM serve the tuned model as `vllm.model`; `ModelError` without an adapter."""
    name, rank = settings.vllm.model, _lora_rank(adapter)
    if not torch.cuda.is_available():
        merged = merged_model(folder, adapter, settings.dtype)
        return ["--model", str(merged), "--served-model-name", name]
    beside = ["--enable-lora", "--lora-modules", f"{name}={adapter}", "--max-lora-rank", str(rank)]
    return ["--model", folder, "--served-model-name", "base", *beside]


def merged_model(folder: str, adapter: Path, dtype: str, cache: Path = CACHE) -> Path:
    """The folder of the merged model, made if need be: whole or not at all. Earlier ones are removed."""
    made_of = f"{folder_digest(folder)} {folder_digest(adapter)} {dtype}".encode()
    merged = cache / hashlib.sha256(made_of).hexdigest()[:16]
    if not merged.is_dir():
        shutil.rmtree(cache, ignore_errors=True)
        partial = cache / "partial"
        load_rewriter(folder, adapter, getattr(torch, dtype)).save_pretrained(partial)
        load_tokenizer(folder).save_pretrained(partial)
        os.rename(partial, merged)
    return merged


def _lora_rank(adapter: Path) -> int:
    try:
        rank = int(json.loads((adapter / "adapter_config.json").read_text(encoding="utf-8"))["r"])
    except (OSError, ValueError, KeyError, TypeError):
        raise ModelError(f"{adapter}: no adapter to read here; run the stage tune_rewriter") from None
    return next((size for size in _LORA_RANKS if size >= rank), rank)
