"""A checkpoint: everything a killed run needs to end with the same bytes as one that was never stopped."""

from __future__ import annotations

import os
import pickle
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from safeclip.errors import TrainingError

NAME = "checkpoint.pt"


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
    partial = folder / f".{NAME}.partial"
    with partial.open("wb") as file:
        torch.save(asdict(checkpoint), file)
        file.flush()
        os.fsync(file.fileno())
    os.replace(partial, folder / NAME)


def load_checkpoint(folder: Path) -> Checkpoint | None:
    """The folder's checkpoint, or None where there is none; `TrainingError` if it cannot be read."""
    path = folder / NAME
    try:
        return Checkpoint(**torch.load(path, weights_only=True))
    except FileNotFoundError:
        return None
    except (pickle.UnpicklingError, RuntimeError, TypeError, EOFError) as error:
        fault = str(error).splitlines()[0]
        raise TrainingError(
            f"{path}: not a readable checkpoint ({fault}); remove {folder} to start over"
        ) from None
