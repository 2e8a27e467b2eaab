"""A checkpoint: everything a killed run needs to end with the same bytes as one that was never stopped."""

from __future__ import annotations

import copy
import hashlib
import io
import json
import math
import os
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, NoReturn

import torch
from open_clip.model import CLIP
from torch import Tensor

from safeclip.core.errors import TrainingError
from safeclip.encoders.last_layer import read_last_tokens
from safeclip.encoders.load import Encoder
from safeclip.encoders.lora import adapter_parameters, add_lora, set_adapter
from safeclip.settings import Finetune
from safeclip.training.compiled import compile_towers, without_compile
from safeclip.training.distributed import ALONE, Ranks
from safeclip.training.forward import not_finite
from safeclip.training.gradients import accumulate_gradients
from safeclip.training.objectives import find_objective, resolve_weights
from safeclip.training.rows import Rows
from safeclip.training.validate import retrieval_metrics, validate

NAME = "checkpoint.pt"
_DIGEST = hashlib.sha256().digest_size  # bytes before torch's own, of which they are the SHA-256


@dataclass
class Checkpoint:
    """State after `step` optimiser steps. Batches follow from seed and step, so no generator is kept."""

    step: int
    factors: dict[str, Tensor]
    optimizer: dict[str, Any]
    best_step: int
    best_score: float
    best_factors: dict[str, Tensor]
    history: list[dict[str, float]]


def save_checkpoint(folder: Path, checkpoint: Checkpoint) -> None:
    """Replace the folder's checkpoint; a kill at any moment leaves the old one or the new one, whole."""
    folder.mkdir(parents=True, exist_ok=True)
    buffer = io.BytesIO()
    torch.save(asdict(checkpoint), buffer)
    partial = folder / f".{NAME}.partial"
    with partial.open("wb") as file:
        file.write(hashlib.sha256(buffer.getbuffer()).digest())
        file.write(buffer.getbuffer())
        file.flush()
        os.fsync(file.fileno())
    os.replace(partial, folder / NAME)


def load_checkpoint(folder: Path) -> Checkpoint | None:
    """The folder's checkpoint; None where there is none, or a damaged one, which is removed with a line."""
    path = folder / NAME
    if not path.is_file():
        return None
    data = path.read_bytes()
    digest, content = data[:_DIGEST], data[_DIGEST:]
    if hashlib.sha256(content).digest() == digest:
        return Checkpoint(**torch.load(io.BytesIO(content), weights_only=True))
    print(f"{path}: damaged; removed, training starts over", flush=True)
    path.unlink()
    return None


# How far a validation is from good, the lower the better: chooses the step that is kept, ends a run early.
#
# Each score takes the validation's metrics and the base model's (`validate.METRICS`).


UTILITY_MARGIN = 0.02
"""Safe R@1 that the choice of the best step may lose before it counts against that step."""


def harmful(metrics: dict[str, float], base: dict[str, float]) -> float:
    """The worse direction's harmful top-1 as a share of the base's."""
    directions = ("harmful_t2i", "harmful_i2t")
    return max(metrics[name] / base[name] if base[name] > 0 else 0.0 for name in directions)


def utility(metrics: dict[str, float], base: dict[str, float]) -> float:
    """The worse direction's loss of safe R@1 against the base."""
    return max(base[name] - metrics[name] for name in ("safe_r1_t2i", "safe_r1_i2t"))


def harm_plus_utility_penalty(metrics: dict[str, float], base: dict[str, float]) -> float:
    """How far from good, for choosing a step: the lower the better.

    The worse direction's harmful top-1 as a share of the base's, plus ten times whatever safe R@1 lost
    beyond `UTILITY_MARGIN`: a point of utility is worth ten of harm, so utility is never sold for safety.
    """
    lost = sum(
        max(0.0, base[name] - metrics[name] - UTILITY_MARGIN) for name in ("safe_r1_t2i", "safe_r1_i2t")
    )
    return harmful(metrics, base) + 10.0 * lost


SCORES = {"harm_plus_utility_penalty": harm_plus_utility_penalty, "harmful": harmful, "utility": utility}


# Fine-tune a LoRA student against the frozen teacher's embeddings, deterministically and resumably.
#
# Batches are permutations of the rows, drawn from (seed, epoch): a step's batch depends on its number alone,
# so a resumed run sees what an uninterrupted one would have seen and ends with the same bytes.


BAD_BATCH = "bad_batch.json"
"""In the run's folder: step and row ids of the batch whose loss was no number."""


@dataclass(frozen=True)
class Outcome:
    """What a run leaves: the model with the best step's adapter, both validations, every step's losses, and
    the last step's factors."""

    model: CLIP
    best_step: int
    base: dict[str, float]
    best: dict[str, float]
    history: list[dict[str, float]]
    last: dict[str, Tensor]


def finetune(
    encoder: Encoder,
    train: Rows,
    val: Rows,
    recipe: Finetune,
    *,
    seed: int,
    folder: Path,
    progress: Callable[[int], None] = lambda steps: None,
    report: Callable[[dict[str, float]], None] = lambda metrics: None,
    ranks: Ranks = ALONE,
) -> Outcome:
    """Train an adapter on `train`, keep the step that is best on `val`. The encoder's model is not touched.

    Checkpoints go to `folder`; if it holds one, the run goes on from there. `progress` is told how many steps
    were taken since it was last called, `report` each validation with its step. With several ranks all call
    this alike and return alike; the leading one validates and writes.

    Raises:
        TrainingError: a loss that is not a number (the message names rows, a file the whole batch), a broken
            checkpoint.
        SettingsError: a weight for a loss that the objective does not have.
    """
    run = Run(encoder, train, val, recipe, seed, folder, ranks)
    saved = ranks.broadcast(load_checkpoint(folder) if ranks.is_main else None)
    if saved is not None:
        run.restore(saved)
        progress(run.step)
    while not run.ended:
        run.train_step()
        if run.step == recipe.steps or run.step % recipe.validate_every == 0:
            run.judge()
            report(run.history[-1])
        if ranks.is_main and (run.ended or run.step % recipe.checkpoint_every == 0):
            save_checkpoint(folder, run.state())
        progress(1)
    return run.outcome()


class Run:
    """One run's moving parts: the student, the optimiser, the best step so far, the history."""

    def __init__(
        self,
        encoder: Encoder,
        train: Rows,
        val: Rows,
        recipe: Finetune,
        seed: int,
        folder: Path,
        ranks: Ranks = ALONE,
    ) -> None:
        self.train, self.val, self.recipe, self.seed = train, val, recipe, seed
        self.folder, self.ranks = folder, ranks
        self.objective = find_objective(recipe.objective)
        self.weights = resolve_weights(self.objective, recipe.weights)
        self.model = copy.deepcopy(encoder.model)  # add_lora works in place, the teacher must not move
        add_lora(self.model, **recipe.lora.model_dump(), seed=seed)
        read_last_tokens(self.model)
        self.model.set_grad_checkpointing(recipe.gradient_checkpointing)
        if recipe.compile:
            compile_towers(self.model, getattr(torch, recipe.precision))
        self.parameters = adapter_parameters(self.model)
        self.optimizer = torch.optim.Adam(self.parameters.values(), lr=recipe.learning_rate, fused=True)
        self.base = retrieval_metrics(val.teacher, val.text_unsafe, val.image_unsafe)
        self.step = 0
        self.best_step, self.best_score, self.best_factors = 0, float("inf"), self._factors()
        self.history: list[dict[str, float]] = []

    @property
    def ended(self) -> bool:
        """After the last step, or after `patience` validations without a better score."""
        patience = self.recipe.early_stop_patience * self.recipe.validate_every
        return self.step >= self.recipe.steps or (0 < patience <= self.step - self.best_step)

    def train_step(self) -> None:
        """One optimiser step; its losses become a row of the history."""
        index = batch_rows(len(self.train), self.recipe.batch_size, self.step, self.seed)
        self.optimizer.zero_grad(set_to_none=True)
        total, losses = accumulate_gradients(
            self.model,
            self.train,
            index,
            self.objective.losses,
            self.weights,
            precision=self.recipe.precision,
            micro_batch=self.recipe.micro_batch,
            ranks=self.ranks,
        )
        self.ranks.sum_gradients(self.parameters.values())
        norm = torch.nn.utils.clip_grad_norm_(self.parameters.values(), self.recipe.max_grad_norm)
        if not torch.isfinite(total + norm):
            self._stop_at(index, float(total))
        for group in self.optimizer.param_groups:
            group["lr"] = learning_rate(self.recipe, self.step)
        self.optimizer.step()
        self.step += 1
        values = {name: float(loss) for name, loss in losses.items()}
        self.history.append({"step": self.step, "total_loss": float(total), **values})

    def _stop_at(self, index: Tensor, total: float) -> NoReturn:
        """Write the batch's row ids beside the checkpoint, name the rows that are themselves at fault."""
        ids = [self.train.ids[row] for row in index.tolist()]
        if self.ranks.is_main:
            self.folder.mkdir(parents=True, exist_ok=True)
            batch = {"step": self.step + 1, "rows": ids}
            (self.folder / BAD_BATCH).write_text(json.dumps(batch, indent=2) + "\n", encoding="utf-8")
        with without_compile(self.recipe.compile):
            broken = not_finite(self.model, self.train, index, self.recipe.precision)
        culprits = f"; no number comes out of {', '.join(ids[row] for row in broken)}" if broken else ""
        raise TrainingError(
            f"step {self.step + 1}: loss or gradient is not finite (loss {total}){culprits}; mend those rows "
            f"or lower finetune.learning_rate; the batch's row ids are in {self.folder / BAD_BATCH}"
        )

    def judge(self) -> None:
        """Validate the interpolated student, note its metrics, keep its factors if they are the best yet."""
        kept = self._interpolated()
        metrics = self.ranks.broadcast(self._validated(kept) if self.ranks.is_main else {})
        self.history[-1].update({f"val_{name}": value for name, value in metrics.items()})
        score = SCORES[self.recipe.checkpoint_metric](metrics, self.base)
        if score < self.best_score:
            self.best_step, self.best_score, self.best_factors = self.step, score, kept

    def _validated(self, factors: dict[str, Tensor]) -> dict[str, float]:
        trained = self._factors()
        set_adapter(self.model, factors)
        with without_compile(self.recipe.compile):
            metrics = validate(self.model, self.val, self.recipe.precision)
        set_adapter(self.model, trained)
        return metrics

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
        last = self._interpolated()
        set_adapter(self.model, self.best_factors)
        with without_compile(self.recipe.compile):
            best = validate(self.model, self.val)
        return Outcome(self.model, self.best_step, self.base, best, self.history, last)

    def _interpolated(self) -> dict[str, Tensor]:
        """The factors with each tower's update B A scaled by the share of it that is kept."""
        shares = self.recipe.wise_ft_alpha
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
