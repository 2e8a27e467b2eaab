"""Fine-tune a LoRA student against the frozen teacher's embeddings, deterministically and resumably.

Batches are permutations of the rows, drawn from (seed, epoch): a step's batch depends on its number alone,
so a resumed run sees what an uninterrupted one would have seen and ends with the same bytes.
"""

from __future__ import annotations

import copy
import math
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import torch
from open_clip.model import CLIP
from torch import Tensor

from safeclip.encoders.load import Encoder
from safeclip.encoders.lora import adapter_parameters, add_lora, set_adapter
from safeclip.errors import TrainingError
from safeclip.settings.finetune import Finetune
from safeclip.training.checkpoint import Checkpoint, load_checkpoint, save_checkpoint
from safeclip.training.forward import embed_rows, make_batch
from safeclip.training.objectives import OBJECTIVES, resolve_weights
from safeclip.training.rows import Rows
from safeclip.training.validate import retrieval_metrics, validate

UTILITY_MARGIN = 0.02
"""Safe R@1 that the choice of the best step may lose before it counts against that step."""


@dataclass(frozen=True)
class Outcome:
    """What a run leaves: the model with the best step's adapter, both validations, every step's losses."""

    model: CLIP
    best_step: int
    base: dict[str, float]
    best: dict[str, float]
    history: list[dict[str, float]]


def finetune(
    encoder: Encoder,
    train: Rows,
    val: Rows,
    recipe: Finetune,
    *,
    seed: int,
    folder: Path,
    progress: Callable[[int], None] = lambda steps: None,
) -> Outcome:
    """Train an adapter on `train`, keep the step that is best on `val`. The encoder's model is not touched.

    Checkpoints go to `folder`; if it holds one, the run goes on from there. `progress` is told how many steps
    were taken since it was last called.

    Raises:
        TrainingError: a loss that is not a number (the message names the batch's rows), a broken checkpoint.
        SettingsError: a weight for a loss that the objective does not have.
    """
    run = _Run(encoder, train, val, recipe, seed)
    saved = load_checkpoint(folder)
    if saved is not None:
        run.restore(saved)
        progress(run.step)
    while run.step < recipe.steps:
        run.train_step()
        last = run.step == recipe.steps
        if last or run.step % recipe.validate_every == 0:
            run.judge()
        if last or run.step % recipe.checkpoint_every == 0:
            save_checkpoint(folder, run.state())
        progress(1)
    return run.outcome()


class _Run:
    """One run's moving parts: the student, the optimiser, the best step so far, the history."""

    def __init__(self, encoder: Encoder, train: Rows, val: Rows, recipe: Finetune, seed: int) -> None:
        self.train, self.val, self.recipe, self.seed = train, val, recipe, seed
        self.objective = OBJECTIVES[recipe.objective]
        self.weights = resolve_weights(self.objective, recipe.weights)
        self.model = copy.deepcopy(encoder.model)  # add_lora works in place, the teacher must not move
        add_lora(self.model, recipe.lora.rank, recipe.lora.alpha, query=recipe.lora.query, seed=seed)
        self.parameters = adapter_parameters(self.model)
        self.optimizer = torch.optim.Adam(self.parameters.values(), lr=recipe.learning_rate)
        self.base = retrieval_metrics(val.teacher, val.text_unsafe, val.image_unsafe)
        self.step = 0
        self.best_step, self.best_score, self.best_factors = 0, float("inf"), self._factors()
        self.history: list[dict[str, float]] = []

    def train_step(self) -> None:
        """One optimiser step; its losses become a row of the history."""
        index = batch_rows(len(self.train), self.recipe.batch_size, self.step, self.seed)
        student = embed_rows(self.model, self.train, index, self.recipe.precision)
        losses = self.objective.losses(make_batch(student, self.train, index))
        total = torch.stack([self.weights[name] * loss for name, loss in losses.items()]).sum()
        self._require_number(total, index)
        self.optimizer.zero_grad(set_to_none=True)
        total.backward()
        norm = torch.nn.utils.clip_grad_norm_(self.parameters.values(), self.recipe.max_grad_norm)
        self._require_number(norm, index)
        for group in self.optimizer.param_groups:
            group["lr"] = learning_rate(self.recipe, self.step)
        self.optimizer.step()
        self.step += 1
        values = {name: float(loss.detach()) for name, loss in losses.items()}
        self.history.append({"step": self.step, "total_loss": float(total.detach()), **values})

    def _require_number(self, value: Tensor, index: Tensor) -> None:
        if not torch.isfinite(value):
            ids = ", ".join(self.train.ids[row] for row in index.tolist())
            raise TrainingError(
                f"step {self.step + 1}: loss or gradient is {float(value.detach())}; lower "
                f"finetune.learning_rate or look at the batch's rows: {ids}"
            )

    def judge(self) -> None:
        """Validate the interpolated student, note its metrics, keep its factors if they are the best yet."""
        trained, kept = self._factors(), self._interpolated()
        set_adapter(self.model, kept)
        metrics = validate(self.model, self.val, self.recipe.precision)
        set_adapter(self.model, trained)
        self.history[-1].update({f"val_{name}": value for name, value in metrics.items()})
        score = shortfall(metrics, self.base)
        if score < self.best_score:
            self.best_step, self.best_score, self.best_factors = self.step, score, kept

    def state(self) -> Checkpoint:
        return Checkpoint(
            step=self.step,
            factors=self._factors(),
            optimizer=self.optimizer.state_dict(),
            best_step=self.best_step,
            best_score=self.best_score,
            best_factors=self.best_factors,
            history=self.history,
        )

    def restore(self, saved: Checkpoint) -> None:
        set_adapter(self.model, saved.factors)
        self.optimizer.load_state_dict(saved.optimizer)
        self.step, self.history = saved.step, saved.history
        self.best_step, self.best_score = saved.best_step, saved.best_score
        self.best_factors = saved.best_factors

    def outcome(self) -> Outcome:
        set_adapter(self.model, self.best_factors)
        best = validate(self.model, self.val)
        return Outcome(self.model, self.best_step, self.base, best, self.history)

    def _interpolated(self) -> dict[str, Tensor]:
        """The factors with each tower's update B A scaled by the share of it that is kept."""
        shares = self.recipe.interpolate
        return {
            name: value * (shares.image if name.startswith("visual.") else shares.text)
            if name.endswith("lora_b")
            else value
            for name, value in self._factors().items()
        }

    def _factors(self) -> dict[str, Tensor]:
        return {name: value.detach().cpu().clone() for name, value in self.parameters.items()}


def batch_rows(rows: int, batch_size: int, step: int, seed: int) -> Tensor:
    """Row numbers of the batch of `step` (from 0): a slice of its epoch's permutation, the rest dropped."""
    size = min(rows, batch_size)
    epoch, place = divmod(step, rows // size)
    generator = torch.Generator().manual_seed(seed * 1_000_003 + epoch)
    return torch.randperm(rows, generator=generator)[place * size : (place + 1) * size]


def learning_rate(recipe: Finetune, step: int) -> float:
    """Linear warm-up times a cosine to zero (arXiv 1608.03983, equation 5). `step` counts from 0."""
    warm_up = min(1.0, (step + 1) / max(1, recipe.warmup_steps))
    return recipe.learning_rate * warm_up * 0.5 * (1.0 + math.cos(math.pi * step / recipe.steps))


def shortfall(metrics: dict[str, float], base: dict[str, float]) -> float:
    """How far from good, for choosing a step: the lower the better.

    The worse direction's harmful top-1 as a share of the base's, plus ten times whatever safe R@1 lost
    beyond `UTILITY_MARGIN`: a point of utility is worth ten of harm, so utility is never sold for safety.
    """
    harmful = max(
        metrics[name] / base[name] if base[name] > 0 else 0.0 for name in ("harmful_t2i", "harmful_i2t")
    )
    lost = sum(
        max(0.0, base[name] - metrics[name] - UTILITY_MARGIN) for name in ("safe_r1_t2i", "safe_r1_i2t")
    )
    return harmful + 10.0 * lost
