"""The section `tune_rewriter` of params.yaml."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field

from safeclip.settings.section import Count, Positive, Rate, Section, Share, Weight


class Preference(Section):
    """DPO after SFT: rewrites are drawn from the tuned model, ranked by a reward, learned from in pairs."""

    captions: Positive = 300  # safe captions of the train split
    candidates: Annotated[int, Field(ge=2)] = 6  # rewrites drawn for each
    temperature: Rate = 1.0  # of these draws
    margin: Share = 0.4  # of reward between the better and the worse rewrite
    beta: Rate = 0.1  # how dear it is to leave what SFT learned
    sft_weight: Weight = 0.2  # of the better rewrite's own likelihood in the loss
    epochs: Positive = 1
    batch_size: Positive = 8
    learning_rate: Rate = 3e-4


class TuneRewriter(Section):
    """LoRA SFT of the rewriter on the curated pairs, then DPO where `preference` says how."""

    model: str = "smollm2-135m"  # or a transformers name or folder
    lora_rank: Positive = 16
    lora_alpha: Positive = 32
    epochs: Positive = 3
    batch_size: Positive = 10
    learning_rate: Rate = 1e-3
    warmup_steps: Count = 3
    dtype: Literal["float32", "bfloat16"] = "bfloat16"  # of the frozen weights; the adapter is float32
    preference: Preference | None = None
