"""Run the towers' layers by torch's compiler, which fuses what stands between the matrix products."""

from __future__ import annotations

import os
import shutil
import sysconfig
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path

import torch
from open_clip.model import CLIP
from open_clip.transformer import ResidualAttentionBlock

from safeclip.core.errors import SettingsError
from safeclip.encoders.lora_layers import LoraLayer


def compile_towers(model: CLIP, dtype: torch.dtype) -> None:
    """Have every layer of an adapted model compiled when it first runs, in place.

    Layers of one shape share their code: a tower is compiled once, and once more for captions of any length.
    `dtype` is what the layers compute in.

    Raises:
        SettingsError: this machine has no C++ compiler or no headers of Python.
    """
    compiler = os.environ.get("CXX", "g++")
    header = Path(sysconfig.get_path("include")) / "Python.h"
    missing = compiler if shutil.which(compiler) is None else header if not header.is_file() else None
    if missing is not None:
        raise SettingsError(
            f"`finetune.compile`: {missing} is not on this machine; install a C++ compiler and Python's "
            "headers, or set it to false"
        )
    for block in model.modules():
        if type(block) is ResidualAttentionBlock:
            for layer in block.modules():
                if isinstance(layer, LoraLayer):
                    layer.cast_frozen(dtype)
            block.compile()


def without_compile(compiled: bool) -> AbstractContextManager:
    """Run the plain code in this block: for shapes that occur too seldom to be worth compiling."""
    return torch.compiler.set_stance("force_eager") if compiled else nullcontext()
