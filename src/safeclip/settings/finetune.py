"""The section `finetune` of params.yaml."""

from __future__ import annotations

from typing import Literal

from pydantic import Field, model_validator

from safeclip.settings.section import Count, Positive, Rate, Section, Share, Weight


class Lora(Section):
    """Low-rank updates of both towers: attention (key, value, output), MLP, patches, tokens."""

    rank: Positive = 16
    alpha: Positive = 16  # the update is alpha / rank times the product of the factors
    query: bool = True  # adapt the query projection too
    tokens: bool = True  # adapt the token embedding too


class Interpolate(Section):
    """Share of each tower's update that is kept: 0 is the base, 1 the fine-tuned tower (arXiv 2109.01903)."""

    text: Share = 1.0
    image: Share = 0.8


class Fragments(Section):
    """Safe captions cut to a few of their words, so that short prompts stay where they were."""

    share: Share = 0.4  # of the safe captions; 0 for none
    draws: Positive = 8  # passes over the rows until the same cuts come again


class Composed(Section):
    """Generated captions replaced by safe ones that other words were put into, of one pass over the rows."""

    unsafe: Share = 0.45  # with a phrase of the taxonomy, so that each of its words is seen often enough
    safe: Share = 0.2  # with words of another safe caption, so that what is learnt is not the putting in

    @model_validator(mode="after")
    def _leaves_no_more_than_all(self) -> Composed:
        if self.unsafe + self.safe > 1:
            raise ValueError("`unsafe` and `safe` are shares of the same captions; let them sum to at most 1")
        return self


class EarlyStop(Section):
    """When a run ends before its last step: no better `score` in `patience` validations; 0 never does.

    The score also chooses the step that is kept. `shortfall`: harmful top-1 against the base, and ten times
    any utility lost beyond two points; `harmful`: harmful top-1 alone; `utility`: safe R@1 alone.
    """

    score: Literal["shortfall", "harmful", "utility"] = "shortfall"
    patience: Count = 0


class Finetune(Section):
    """LoRA fine-tuning under a chosen objective."""

    objective: Literal["opposed", "relative", "safe_clip", "safer_clip", "shield_clip"] = "opposed"
    weights: dict[str, Weight] = Field(default_factory=dict)  # by loss name; the objective's own otherwise
    lora: Lora = Lora()
    interpolate: Interpolate = Interpolate()
    target_sharpness: Rate | None = (
        20.0  # of the mean over safe pairs that unsafe items go to; null: the nearest
    )
    fragments: Fragments = Fragments()
    composed: Composed = Composed()
    steps: Positive = 400
    batch_size: Positive = 64  # of all processes together
    micro_batch: Positive | None = None  # rows with a graph at a time; the gradient stays the whole batch's
    processes: Positive = 1  # started by the stage through torchrun, one a GPU or core
    recompute_activations: bool = False  # in the backward pass: less memory, a third more work
    compile: bool = False  # the towers' layers by torch's compiler: for GPUs, no gain was measured on CPUs
    learning_rate: Rate = 2.5e-3  # after the warm-up a cosine to zero
    warmup_steps: Count = 10
    precision: Literal["float32", "bfloat16"] = "bfloat16"
    max_grad_norm: Rate = 1.0
    validate_every: Positive = 40
    early_stop: EarlyStop = EarlyStop()
    checkpoint_every: Positive = 40

    @model_validator(mode="after")
    def _every_process_has_a_row(self) -> Finetune:
        if self.processes > self.batch_size:
            raise ValueError("`processes` is larger than `batch_size`; give every process a row at least")
        return self
