"""Write an encoder as a folder in open_clip's layout that `load_encoder` reads back."""

from __future__ import annotations

import shutil
from pathlib import Path

import torch
from safetensors.torch import save_file
from torch import nn

from safeclip.encoders.load import CONFIG, TOKENIZER_FILES, WEIGHTS
from safeclip.errors import ModelError


def save_like(model: nn.Module, like: Path, folder: Path, dtype: torch.dtype = torch.float32) -> None:
    """Write `model`'s weights in `dtype` to `folder`; configuration and tokenizer come from `like`.

    fp32 reads back bit for bit; fp16 halves the file and rounds. Raises `ModelError` if `like` is no folder
    of an encoder.
    """
    if not (like / CONFIG).is_file():
        raise ModelError(f"{like}: no {CONFIG}; only an encoder kept as a folder can be written like it")
    folder.mkdir(parents=True, exist_ok=True)
    for name in (CONFIG, *TOKENIZER_FILES):
        if (like / name).is_file():
            shutil.copyfile(like / name, folder / name)
    state = {name: tensor.detach().to(dtype).contiguous() for name, tensor in model.state_dict().items()}
    save_file(state, folder / WEIGHTS)
