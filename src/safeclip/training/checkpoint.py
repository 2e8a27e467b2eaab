"""A checkpoint: everything a killed run needs to end with the same bytes as one that was never stopped."""

from __future__ import annotations

import hashlib
import io
import os
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

NAME = "checkpoint.pt"
_DIGEST = hashlib.sha256().digest_size  # bytes before torch's own, of which they are the SHA-256


@dataclass
class Checkpoint:
    """State after `step` optimiser steps. Batches follow from seed and step, so no generator is kept."""

    step: int
    factors: dict[str, Tensor]
    optimizer: dict[str, Any]
    best_step: int
    best_score: float
    best_factors: dict[str, Tensor]
    history: list[dict[str, float]]


def save_checkpoint(folder: Path, checkpoint: Checkpoint) -> None:
    """Replace the folder's checkpoint; a kill at any moment leaves the old one or the new one, whole."""
    folder.mkdir(parents=True, exist_ok=True)
    buffer = io.BytesIO()
    torch.save(asdict(checkpoint), buffer)
    partial = folder / f".{NAME}.partial"
    with partial.open("wb") as file:
        file.write(hashlib.sha256(buffer.getbuffer()).digest())
        file.write(buffer.getbuffer())
        file.flush()
        os.fsync(file.fileno())
    os.replace(partial, folder / NAME)


def load_checkpoint(folder: Path) -> Checkpoint | None:
    """The folder's checkpoint; None where there is none, or a damaged one, which is removed with a line."""
    path = folder / NAME
    if not path.is_file():
        return None
    data = path.read_bytes()
    digest, content = data[:_DIGEST], data[_DIGEST:]
    if hashlib.sha256(content).digest() == digest:
        return Checkpoint(**torch.load(io.BytesIO(content), weights_only=True))
    print(f"{path}: damaged; removed, training starts over", flush=True)
    path.unlink()
    return None
