"""Load a text-to-image pipeline of diffusers (Stable Diffusion 1.x, 2.x, SDXL and others of that form).

A folder is checked before it is loaded, so that a missing file is named and not found halfway; weights are
read from safetensors only, since a pickle can run code.
"""

from __future__ import annotations

import inspect
import json
from pathlib import Path
from typing import Any

import diffusers
import torch
from diffusers import DiffusionPipeline
from diffusers.utils import logging

from safeclip.errors import ModelError
from safeclip.settings.diffusers import Diffusers

SCHEDULERS = {
    "ddim": "DDIMScheduler",
    "euler": "EulerDiscreteScheduler",
    "dpmsolver": "DPMSolverMultistepScheduler",
    "unipc": "UniPCMultistepScheduler",
}
INDEX = "model_index.json"
_CONFIGS = ("config.json", "tokenizer_config.json", "scheduler_config.json", "preprocessor_config.json")
_WITHOUT_WEIGHTS = ("tokenizer", "scheduler", "feature_extractor", "image_processor")


def load_pipeline(settings: Diffusers, device: str) -> DiffusionPipeline:
    """The pipeline on `device`, with the scheduler and type asked for; a `ModelError` says what to mend."""
    name = settings.model
    if Path(name).is_dir() or (Path(name).is_absolute() or name.startswith(("data/", "./"))):
        check_folder(Path(name))
    logging.set_verbosity_error()
    logging.disable_progress_bar()
    try:
        pipeline = DiffusionPipeline.from_pretrained(
            name, torch_dtype=getattr(torch, settings.dtype), use_safetensors=True
        )
    except Exception as error:  # network, hub, configuration and weights errors share no base
        raise ModelError(
            f"{name}: no pipeline to load ({_first_line(error)}); check the name, or restore the folder"
        ) from None
    if "prompt" not in inspect.signature(pipeline.__call__).parameters:
        raise ModelError(
            f"{name}: {type(pipeline).__name__} takes no prompt; choose a text-to-image pipeline"
        )
    _set_scheduler(pipeline, settings.scheduler)
    pipeline.set_progress_bar_config(disable=True)
    pipeline = pipeline.to(device)
    if settings.compile:
        part = "unet" if hasattr(pipeline, "unet") else "transformer"
        setattr(pipeline, part, torch.compile(getattr(pipeline, part)))
    return pipeline


def check_folder(folder: Path) -> None:
    """Every part that model_index.json names has its configuration and weights; else a `ModelError`."""
    try:
        index = json.loads((folder / INDEX).read_text(encoding="utf-8"))
    except OSError:
        raise ModelError(f"{folder / INDEX}: no such file; give a folder in diffusers' format") from None
    except ValueError:
        raise ModelError(f"{folder / INDEX}: not valid JSON; restore the file") from None
    for part, kind in sorted(index.items()):
        if isinstance(kind, list) and kind[0] is not None:
            _check_part(folder / part)


def _check_part(folder: Path) -> None:
    if not any((folder / name).is_file() for name in _CONFIGS):
        raise ModelError(f"{folder}: named in {INDEX}, but has no configuration; restore the folder")
    weightless = any(folder.name.startswith(name) for name in _WITHOUT_WEIGHTS)
    if not weightless and not any(folder.glob("*.safetensors")):
        raise ModelError(
            f"{folder}: no .safetensors file; restore it, or convert the weights (pickles are never loaded)"
        )


def _set_scheduler(pipeline: Any, name: str) -> None:
    if name != "own":
        kind = getattr(diffusers, SCHEDULERS[name])
        pipeline.scheduler = kind.from_config(pipeline.scheduler.config)


def longest_caption(pipeline: Any) -> int:
    """How many tokens the pipeline's text encoders all read, the start and end tokens included."""
    return min(tokenizer.model_max_length for tokenizer in tokenizers(pipeline))


def tokenizers(pipeline: Any) -> list[Any]:
    """The pipeline's tokenizers: one, or SDXL's two."""
    found = [getattr(pipeline, name, None) for name in ("tokenizer", "tokenizer_2")]
    return [tokenizer for tokenizer in found if tokenizer is not None]


def _first_line(error: Exception) -> str:
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return (lines[0] if lines else type(error).__name__)[:200].rstrip(".:")
