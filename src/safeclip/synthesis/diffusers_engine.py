"""Load a text-to-image pipeline of diffusers (Stable Diffusion 1.x, 2.x, SDXL and others of that form).

A folder is checked before it is loaded, so that a missing file is named and not found halfway; weights are
read from safetensors only, since a pickle can run code.
"""

from __future__ import annotations

import hashlib
import inspect
import io
import json
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import diffusers
import numpy as np
import torch
import transformers
from diffusers import DiffusionPipeline
from diffusers.utils import logging
from PIL import Image
from tqdm import tqdm

from safeclip.core.errors import ModelError
from safeclip.settings import Diffusers
from safeclip.synthesis.images import KeptPictures, Rendered, RenderRequest
from safeclip.synthesis.language_model import folder_digest
from safeclip.synthesis.row_noise import row_key

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


# Pictures from a text-to-image pipeline of diffusers, behind the same interface as the picture book.
#
# A row's noise comes from a generator of its own, keyed by (project seed, row id), so its picture does not
# depend on the batch it is made in but for rounding in the last bits; micro-batches are formed by rule (ids
# in order, `batch_size` at a time) so that on one CPU type the bytes are the same too.


FLAT_LEVELS = 2  # a picture whose channels all stay within so many of 255 levels shows nothing
Batch = Sequence[RenderRequest]


class DiffusersEngine:
    """One pipeline, loaded when the first picture is asked for.

    Args:
        settings: the pipeline and how it is run.
        size: side of the pictures in pixels.
        seed: the project's.
        kept: where finished micro-batches are kept, None to keep none.
        load: how the pipeline comes to be; replaced where it is already in memory.
    """

    def __init__(
        self,
        settings: Diffusers,
        size: int,
        *,
        seed: int,
        kept: KeptPictures | None = None,
        load: Callable[[Diffusers, str], Any] = load_pipeline,
    ) -> None:
        self.name = f"diffusers:{Path(settings.model).name}"
        self.truncated: list[str] = []
        self._settings, self._size, self._seed, self._kept, self._load = settings, size, seed, kept, load
        self._device = "cuda" if torch.cuda.is_available() else "cpu"
        self._most = settings.batch_size
        self._loaded: Any = None
        self._checker: Any = None

    def render(self, requests: Sequence[RenderRequest]) -> Iterator[Rendered]:
        """One picture a request, in order, or a reason why there is none."""
        ordered = sorted(requests, key=lambda request: request.id)
        size = self._settings.batch_size
        batches = [tuple(ordered[start : start + size]) for start in range(0, len(ordered), size)]
        done: dict[str, Rendered] = {}
        for batch in tqdm(batches, desc=self.name, unit="batch", mininterval=10, disable=None):
            done |= {picture.id: picture for picture in self._kept_or_made(batch)}
        yield from (done[request.id] for request in requests)

    def _kept_or_made(self, batch: Batch) -> list[Rendered]:
        found = self._kept.read(batch) if self._kept else None
        if found is not None:
            return found
        refused = {request.id: reason for request in batch if (reason := self._refusal(request))}
        asked = [request for request in batch if request.id not in refused]
        made = {picture.id: picture for picture in self._make(asked)}
        pictures = [made.get(r.id) or Rendered(r.id, None, reason=refused[r.id]) for r in batch]
        if self._kept:
            self._kept.write(batch, pictures)
        return pictures

    def _refusal(self, request: RenderRequest) -> str:
        """Why the caption cannot be asked of the pipeline; empty if it can."""
        limit = longest_caption(self._pipeline)
        length = max(len(t(request.caption).input_ids) for t in tokenizers(self._pipeline))
        if length <= limit:
            return ""
        if self._settings.long_captions == "truncate":
            self.truncated.append(request.id)
            return ""
        return f"caption of {length} tokens, the text encoder reads {limit}"

    def _make(self, batch: Batch) -> list[Rendered]:
        """Pictures of a micro-batch, in parts as large as memory allows."""
        pictures: list[Rendered] = []
        at = 0
        while at < len(batch):
            part = batch[at : at + self._most]
            try:
                pictures += self._run(part)
            except (torch.OutOfMemoryError, RuntimeError) as error:
                self._halve(error, len(part))
                continue
            at += len(part)
        return pictures

    def _halve(self, error: RuntimeError, size: int) -> None:
        text = str(error).lower()
        if "out of memory" not in text and "can't allocate memory" not in text:
            raise error
        if size == 1:
            raise ModelError(
                f"{self._settings.model}: not even one picture of {self._size} pixels fits in memory; "
                "lower `render_images.image_size` or choose a 16-bit `dtype`"
            ) from None
        self._most = size // 2
        if self._device == "cuda":
            torch.cuda.empty_cache()

    @torch.inference_mode()
    def _run(self, batch: Batch) -> list[Rendered]:
        generators = [self._generator(request.id) for request in batch]
        pixels = self._pipeline(
            [request.caption for request in batch],
            num_inference_steps=self._settings.steps,
            guidance_scale=self._settings.guidance,
            height=self._size,
            width=self._size,
            generator=generators,
            output_type="np",
        ).images
        return [self._rendered(request, picture) for request, picture in zip(batch, pixels, strict=True)]

    def _generator(self, row_id: str) -> torch.Generator:
        """On the CPU wherever the pipeline runs, so that the noise is the same on every device."""
        return torch.Generator("cpu").manual_seed(row_key(self._seed, row_id, "diffusers"))

    def _rendered(self, request: RenderRequest, pixels: np.ndarray) -> Rendered:
        """PNG bytes of pixels [H, W, 3] in [0, 1], or why the picture cannot be used."""
        if not np.isfinite(pixels).all():
            return Rendered(request.id, None, reason="the picture holds values that are no numbers")
        levels = (pixels * 255).round().astype(np.uint8)
        if int((levels.max(axis=(0, 1)).astype(int) - levels.min(axis=(0, 1))).max()) <= FLAT_LEVELS:
            return Rendered(request.id, None, reason="the picture is of one colour")
        picture = Image.fromarray(levels)
        if not request.may_be_unsafe and self._flags(picture):
            return Rendered(request.id, None, reason="stopped by the pipeline's safety checker")
        buffer = io.BytesIO()
        picture.save(buffer, "PNG")
        return Rendered(request.id, buffer.getvalue())

    def _flags(self, picture: Image.Image) -> bool:
        """What the pipeline's own safety checker says; False if it brought none."""
        if self._checker is None:
            return False
        seen = self._pipeline.feature_extractor(picture, return_tensors="pt").pixel_values
        seen = seen.to(self._device, next(self._checker.parameters()).dtype)
        _, flags = self._checker(images=[np.asarray(picture)], clip_input=seen)
        return bool(flags[0])

    @property
    def _pipeline(self) -> Any:
        if self._loaded is None:
            self._loaded = self._load(self._settings, self._device)
            self._checker = getattr(self._loaded, "safety_checker", None)
            if self._checker is not None:  # asked row by row: policy decides where it applies
                self._loaded.safety_checker = None
        return self._loaded


def pictures_digest(settings: Diffusers, size: int, *, seed: int, threads: int) -> str:
    """SHA-256 of all that decides a picture, the request apart: weights, settings, seed, code, versions."""
    parts = [
        settings.model_dump_json(),
        f"size {size} seed {seed} threads {threads} torch {torch.__version__}",
        f"diffusers {diffusers.__version__} transformers {transformers.__version__}",
        folder_digest(settings.model),
        Path(__file__).read_text(encoding="utf-8"),
    ]
    return hashlib.sha256("\0".join(parts).encode()).hexdigest()
