"""Digests that name an encoder: of its files, or of its weights where it has no folder."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from pathlib import Path

import torch
from torch import nn


def digest_weights(model: nn.Module, salt: str = "") -> str:
    """sha256 over the model's tensors by name, beginning with `salt`."""
    digest = hashlib.sha256(salt.encode())
    for name, tensor in sorted(model.state_dict().items()):
        digest.update(f"\0{name}{tuple(tensor.shape)}{tensor.dtype}\0".encode())
        digest.update(tensor.detach().cpu().contiguous().view(-1).view(torch.uint8).numpy().tobytes())
    return digest.hexdigest()


def digest_files(paths: Sequence[Path]) -> str:
    """sha256 over names and contents, in the order of the names."""
    digest = hashlib.sha256()
    for path in sorted(paths):
        data = path.read_bytes()
        digest.update(f"{path.name}\0{len(data)}\0".encode() + data)
    return digest.hexdigest()
