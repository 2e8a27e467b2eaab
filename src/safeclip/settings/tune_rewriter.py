"""The section `tune_rewriter` of params.yaml."""

from __future__ import annotations

from typing import Literal

from safeclip.settings.section import Count, Positive, Rate, Section


class TuneRewriter(Section):
    """LoRA SFT of the rewriter on the curated pairs."""

    model: str = "smollm2-135m"  # or a transformers name or folder
    lora_rank: Positive = 16
    lora_alpha: Positive = 32
    epochs: Positive = 3
    batch_size: Positive = 10
    learning_rate: Rate = 1e-3
    warmup_steps: Count = 3
    dtype: Literal["float32", "bfloat16"] = "bfloat16"  # of the frozen weights; the adapter is float32
