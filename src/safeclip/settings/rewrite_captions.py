"""The section `rewrite_captions` of params.yaml."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field

from safeclip.settings.section import Positive, Rate, Section, Share
from safeclip.settings.vllm import Vllm


class RewriteCaptions(Section):
    """Safe caption + sampled concept -> unsafe caption."""

    engine: Literal["transformers", "vllm"] = "transformers"
    batch_size: Positive = 64  # rows a micro-batch; part of the data (floating point differs by batch)
    max_new_tokens: Positive = 24
    temperature: Rate = 0.7
    top_p: Annotated[float, Field(gt=0.0, le=1.0)] = 0.95
    dtype: Literal["float32", "bfloat16"] = "bfloat16"
    nearest_concepts: Positive = 50  # candidates under the base encoder
    category_balance: Share = 0.0  # share of rows that draw a category first; the others draw a phrase
    vllm: Vllm = Vllm()
    max_lost: Share = 0.2  # larger share of quarantined and destroyed rows stops the stage
