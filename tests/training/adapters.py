"""Adapter files of random factors, for stages that only need some candidate."""

from __future__ import annotations

from pathlib import Path

import torch

from safeclip.encoders.load import Encoder
from safeclip.encoders.lora import adapter_parameters, add_lora, save_adapter


def write_adapter(encoder: Encoder, path: Path, seed: int) -> None:
    """Adapt `encoder` in place at random and save the factors."""
    add_lora(encoder.model, rank=2, alpha=2)
    generator = torch.Generator().manual_seed(seed)
    for parameter in adapter_parameters(encoder.model).values():
        parameter.data.add_(0.1 * torch.randn(parameter.shape, generator=generator))
    path.parent.mkdir(parents=True, exist_ok=True)
    save_adapter(encoder.model, path, base_digest=encoder.digest)
