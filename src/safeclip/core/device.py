"""Which device computes, and in which type of number."""

from __future__ import annotations

from typing import Literal

import torch

from safeclip.settings import Settings

Device = Literal["cpu", "cuda"]
# what a processor has that multiplies bfloat16 itself; without one a product takes about seven times as long
# as in float32, because every operand is converted first
_BFLOAT16_UNITS = ("amx_bf16", "avx512_bf16")


def default_device() -> Device:
    """Return "cuda" if torch sees a GPU, else "cpu"."""
    return "cuda" if torch.cuda.is_available() else "cpu"


def resolve_dtype(name: str, device: Device) -> str:
    """Return `name`, with "auto" decided: "bfloat16" where `device` has units for it, else "float32"."""
    if name != "auto":
        return name
    capabilities = torch.cpu.get_capabilities() if device == "cpu" else {}
    fast = device == "cuda" or any(capabilities.get(unit) for unit in _BFLOAT16_UNITS)
    return "bfloat16" if fast else "float32"


def resolve_setting(settings: Settings, section: str, key: str, device: Device) -> Settings:
    """Return settings in which `section.key` is no longer "auto"; a line says what it became."""
    cfg = getattr(settings, section)
    dtype = resolve_dtype(getattr(cfg, key), device)
    if dtype == getattr(cfg, key):
        return settings
    print(f"{section}: {key} auto is {dtype} on {device}", flush=True)
    return settings.model_copy(update={section: cfg.model_copy(update={key: dtype})})
