"""Load a causal language model, its tokenizer and a tuned adapter; each fault is one line."""

from __future__ import annotations

import hashlib
from pathlib import Path

import torch
from peft import PeftModel
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
    model = load_model(folder, torch.float32)
    if not (adapter / "adapter_config.json").is_file():
        raise ModelError(f"{adapter}: no adapter here; run the stage tune_rewriter")
    try:
        tuned = PeftModel.from_pretrained(model, str(adapter))
    except (OSError, ValueError, RuntimeError) as error:
        raise ModelError(f"{adapter}: not an adapter of this model ({_first_line(error)})") from None
    return tuned.merge_and_unload().to(dtype).eval()


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
