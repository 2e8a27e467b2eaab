"""The section `evaluate` of params.yaml."""

from __future__ import annotations

from typing import Annotated

from pydantic import Field

from safeclip.settings.section import Positive, Section


class Evaluate(Section):
    """Retrieval and zero-shot on the test split."""

    batch_size: Positive = 256
    zeroshot: str = "zeroshot.parquet"
    zeroshot_prompts: str = "zeroshot_prompts.json"
    bootstrap: Annotated[int, Field(ge=100)] = 1000
    confidence: Annotated[float, Field(gt=0.5, lt=1.0)] = 0.95
    grid_queries: Positive = 6
    slice_min_n: Positive = 30
