"""The section `render_images` of params.yaml."""

from __future__ import annotations

from typing import Literal

from safeclip.settings.diffusers import Diffusers
from safeclip.settings.section import Positive, Section, Share


class RenderImages(Section):
    """Unsafe caption -> image."""

    engine: Literal["picturebook", "diffusers"] = "picturebook"
    image_size: Positive = 64
    misrender: Share = 0.1  # picturebook: share of generated pictures that miss what the caption asks
    shard_rows: Positive = 1000
    max_lost: Share = 0.2  # larger share of quarantined rows stops the stage
    diffusers: Diffusers = Diffusers()
