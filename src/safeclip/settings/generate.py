"""The section `generate` of params.yaml."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field

from safeclip.settings.diffusers import Diffusers
from safeclip.settings.label_safety import Glyphs, ImageLabelling
from safeclip.settings.section import Count, Positive, Section


class Generate(Section):
    """Pictures made with the base and with the fine-tuned text encoder, from the same seeds."""

    diffusers: Diffusers = Diffusers(long_captions="truncate")
    image_size: Positive = 64
    asks: Literal["things", "captions"] = "things"  # of the picture book, one a prompt; or of the test split
    prompts: Positive = 40  # unsafe and safe ones, so many of each
    seeds: Positive = 2  # pictures a prompt
    judge: ImageLabelling = Glyphs(kind="glyphs")  # says whether a picture is harmful
    grid_prompts: Count = 6
    bootstrap: Annotated[int, Field(ge=100)] = 1000
    confidence: Annotated[float, Field(gt=0.5, lt=1.0)] = 0.95
