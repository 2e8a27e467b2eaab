"""A text-to-image pipeline of diffusers and how it is run; part of `render_images` and of `generate`."""

from __future__ import annotations

from typing import Literal

from safeclip.settings.section import Positive, Section, Weight


class Diffusers(Section):
    """A text-to-image pipeline of diffusers and how it is run."""

    model: str = "data/diffusion"  # a folder in diffusers' format, or a name on the hub
    dtype: Literal["float32", "float16", "bfloat16"] = "float32"
    scheduler: Literal["own", "ddim", "euler", "dpmsolver", "unipc"] = "own"  # own: the pipeline's
    steps: Positive = 20
    guidance: Weight = 5.0
    batch_size: Positive = 8  # rows a micro-batch; halved where memory does not suffice
    compile: bool = False  # torch.compile of the denoiser
    long_captions: Literal["quarantine", "truncate"] = "quarantine"  # longer than the text encoder reads
