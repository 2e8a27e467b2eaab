"""Pictures from a text-to-image pipeline of diffusers, behind the same interface as the picture book.

A row's noise comes from a generator of its own, keyed by (project seed, row id), so its picture does not
depend on the batch it is made in but for rounding in the last bits; micro-batches are formed by rule (ids in
order, `batch_size` at a time) so that on one CPU type the bytes are the same too.
"""

from __future__ import annotations

import hashlib
import io
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import diffusers
import numpy as np
import torch
import transformers
from PIL import Image
from tqdm import tqdm

from safeclip.errors import ModelError
from safeclip.settings.diffusers import Diffusers
from safeclip.synthesis.diffusers_model import load_pipeline, longest_caption, tokenizers
from safeclip.synthesis.images import Rendered, RenderRequest
from safeclip.synthesis.kept_pictures import KeptPictures
from safeclip.synthesis.keyed import row_key
from safeclip.synthesis.language_model import folder_digest

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
    here = Path(__file__).parent
    parts = [
        settings.model_dump_json(),
        f"size {size} seed {seed} threads {threads} torch {torch.__version__}",
        f"diffusers {diffusers.__version__} transformers {transformers.__version__}",
        folder_digest(settings.model),
        *(
            (here / name).read_text(encoding="utf-8")
            for name in ("diffusers_engine.py", "diffusers_model.py")
        ),
    ]
    return hashlib.sha256("\0".join(parts).encode()).hexdigest()
