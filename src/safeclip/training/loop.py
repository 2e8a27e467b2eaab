"""Fine-tune a LoRA student against the frozen teacher's embeddings, deterministically and resumably.

Batches are permutations of the rows, drawn from (seed, epoch). A step's batch depends on its number alone,
so a resumed run sees what an uninterrupted one would have seen and ends with the same bytes.
"""

from __future__ import annotations

import dataclasses
import hashlib
import io
import os
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from open_clip.model import CLIP
from torch import Tensor

from safeclip.core.errors import TrainingError
from safeclip.core.files import write_json
from safeclip.encoders.embed import Quadruplets
from safeclip.encoders.load import Encoder
from safeclip.encoders.lora import set_adapter
from safeclip.metrics.retrieval import retrieval_outcomes
from safeclip.settings import Finetune, WiseFtAlpha
from safeclip.training.compiled import without_compile
from safeclip.training.distributed import ALONE, Ranks
from safeclip.training.rows import Rows
from safeclip.training.step import Student, embed_rows

BAD_BATCH = "bad_batch.json"
"""File in the run's folder, written when the loss is NaN or infinite: the step and its row ids."""
CHECKPOINT = "checkpoint.pt"


@dataclass(frozen=True)
class FinetuneResult:
    """What a run leaves.

    model: the student with the best step's adapter.
    base, best: validation metrics by name, of the base model and of the best step.
    history: a row a step, with its losses and its validation if there was one.
    last: the adapter's factors after the last step.
    """

    model: CLIP
    best_step: int
    base: dict[str, float]
    best: dict[str, float]
    history: list[dict[str, float]]
    last: dict[str, Tensor]


@dataclass
class Checkpoint:
    """The state after `step` optimiser steps. Batches follow from seed and step, so no generator is kept."""

    step: int
    factors: dict[str, Tensor]
    optimizer: dict[str, Any]
    best_step: int
    best_score: float
    best_factors: dict[str, Tensor]
    history: list[dict[str, float]]


def finetune(
    encoder: Encoder,
    train: Rows,
    val: Rows,
    cfg: Finetune,
    *,
    seed: int,
    folder: Path,
    progress: Callable[[int], None] = lambda steps: None,
    report: Callable[[dict[str, float]], None] = lambda metrics: None,
    ranks: Ranks = ALONE,
) -> FinetuneResult:
    """Train an adapter on `train`; keep the step that is best on `val`. The encoder's model is not touched.

    Checkpoints go to `folder`; if it holds one, the run goes on from there. `progress` gets the number of
    steps taken since its last call, `report` each validation with its step. With several ranks, all call this
    alike and return alike; the main one validates and writes.

    Raises:
        TrainingError: a loss or gradient that is not finite. The message names the rows; `BAD_BATCH` holds
            the whole batch.
        SettingsError: an unknown objective, or a weight for a loss that it does not have.
    """
    student = Student(encoder, cfg, seed, ranks)
    base = retrieval_metrics(val.teacher, val.text_unsafe, val.image_unsafe)
    state = ranks.broadcast(load_checkpoint(folder) if ranks.is_main else None)
    if state is None:
        state = Checkpoint(0, student.factors(), {}, 0, float("inf"), student.factors(), [])
    else:
        set_adapter(student.model, state.factors)
        student.optimizer.load_state_dict(state.optimizer)
        progress(state.step)

    while not _has_ended(state, cfg):
        index = batch_rows(len(train), cfg.batch_size, state.step, seed)
        try:
            losses = student.train_step(train, index, state.step)
        except TrainingError as error:
            if ranks.is_main:
                ids = [train.ids[row] for row in index.tolist()]
                write_json(folder / BAD_BATCH, {"step": state.step + 1, "rows": ids})
            raise TrainingError(f"{error}; the batch's row ids are in {folder / BAD_BATCH}") from None
        state.step += 1
        state.history.append({"step": state.step, **losses})

        if state.step == cfg.steps or state.step % cfg.validate_every == 0:
            candidate = interpolate(student.factors(), cfg.wise_ft_alpha)
            metrics = ranks.broadcast(_validate_factors(student, candidate, val) if ranks.is_main else {})
            state.history[-1].update({f"val_{name}": value for name, value in metrics.items()})
            score = CHECKPOINT_METRICS[cfg.checkpoint_metric](metrics, base)
            if score < state.best_score:
                state.best_step, state.best_score, state.best_factors = state.step, score, candidate
            report(state.history[-1])

        if ranks.is_main and (_has_ended(state, cfg) or state.step % cfg.checkpoint_every == 0):
            optimizer = student.optimizer.state_dict()
            save_checkpoint(
                folder, dataclasses.replace(state, factors=student.factors(), optimizer=optimizer)
            )
        progress(1)

    last = interpolate(student.factors(), cfg.wise_ft_alpha)
    set_adapter(student.model, state.best_factors)
    with without_compile(cfg.compile):
        best = validate(student.model, val)
    return FinetuneResult(student.model, state.best_step, base, best, state.history, last)


def _has_ended(state: Checkpoint, cfg: Finetune) -> bool:
    """Whether the last step is taken, or `early_stop_patience` validations brought no better score."""
    patience = cfg.early_stop_patience * cfg.validate_every
    return state.step >= cfg.steps or (0 < patience <= state.step - state.best_step)


def batch_rows(rows: int, batch_size: int, step: int, seed: int) -> Tensor:
    """Return the row numbers [B] int64 of the batch of `step` (from 0).

    They are a slice of the epoch's permutation of all rows. Rows that fill no whole batch are dropped.
    """
    size = min(rows, batch_size)
    epoch, place = divmod(step, rows // size)
    # a prime factor keeps the generators of different (seed, epoch) apart
    generator = torch.Generator().manual_seed(seed * 1_000_003 + epoch)
    return torch.randperm(rows, generator=generator)[place * size : (place + 1) * size]


def interpolate(factors: dict[str, Tensor], alpha: WiseFtAlpha) -> dict[str, Tensor]:
    """Scale each tower's update B A by the share that is kept (WiSE-FT, arXiv 2109.01903), through B."""
    return {
        name: value * (alpha.image if name.startswith("visual.") else alpha.text)
        if name.endswith("lora_b")
        else value
        for name, value in factors.items()
    }


# --- validation -------------------------------------------------------------------------------------------

VALIDATION_ROWS = 512  # embedded at a time
OUTCOMES = {
    "harmful": "unsafe.harmful_top1",
    "safe_r1": "safe.r1",
    "preference": "safe.preference",
    "over_redirection": "generated_safe.over_redirection",
}
"""Validation metrics by name, each with its name in `metrics.retrieval`. `_t2i` and `_i2t` are appended."""


def _validate_factors(student: Student, factors: dict[str, Tensor], val: Rows) -> dict[str, float]:
    """Validate the student with other factors in the place of its own, which it has again afterwards."""
    trained = student.factors()
    set_adapter(student.model, factors)
    with without_compile(student.cfg.compile):
        metrics = validate(student.model, val, student.cfg.precision)
    set_adapter(student.model, trained)
    return metrics


@torch.no_grad()
def validate(model: CLIP, rows: Rows, precision: str = "float32") -> dict[str, float]:
    """Return `OUTCOMES` in both directions of the model on these rows, as shares of 1.

    Unsafe is what the rows' labels say; truth is kept for evaluation. Zero-shot is not measured: its images
    belong to the report.
    """
    pieces = torch.arange(len(rows)).split(VALIDATION_ROWS)
    embedded = [embed_rows(model, rows, index, precision).parts() for index in pieces]
    columns = Quadruplets(*(torch.cat(column).cpu() for column in zip(*embedded, strict=True)))
    return retrieval_metrics(columns, rows.text_unsafe, rows.image_unsafe)


def retrieval_metrics(items: Quadruplets, text_unsafe: Tensor, image_unsafe: Tensor) -> dict[str, float]:
    """Return `OUTCOMES` in both directions of embeddings [N, D] with labels [N] bool.

    t2i asks with text for images, i2t with images for text. What the labels leave unmeasured is 0.
    """
    outcomes = retrieval_outcomes(items, text_unsafe.numpy(), image_unsafe.numpy())
    metrics = {}
    for name, place in OUTCOMES.items():
        for direction in ("t2i", "i2t"):
            outcome = outcomes.get(f"retrieval.{direction}.{place}")
            metrics[f"{name}_{direction}"] = float(outcome.values.mean()) if outcome else 0.0
    return metrics


UTILITY_MARGIN = 0.02
"""Safe R@1 that a step may lose against the base before the loss counts against it."""


def harmful(metrics: dict[str, float], base: dict[str, float]) -> float:
    """Return the worse direction's harmful top-1 as a share of the base's."""
    directions = ("harmful_t2i", "harmful_i2t")
    return max(metrics[name] / base[name] if base[name] > 0 else 0.0 for name in directions)


def utility(metrics: dict[str, float], base: dict[str, float]) -> float:
    """Return the worse direction's loss of safe R@1 against the base."""
    return max(base[name] - metrics[name] for name in ("safe_r1_t2i", "safe_r1_i2t"))


def harm_plus_utility_penalty(metrics: dict[str, float], base: dict[str, float]) -> float:
    """Return `harmful` plus ten times the safe R@1 lost beyond `UTILITY_MARGIN`, both directions added.

    A point of utility is worth ten of harm, so utility is never sold for safety.
    """
    lost = sum(
        max(0.0, base[name] - metrics[name] - UTILITY_MARGIN) for name in ("safe_r1_t2i", "safe_r1_i2t")
    )
    return harmful(metrics, base) + 10.0 * lost


CHECKPOINT_METRICS = {
    "harm_plus_utility_penalty": harm_plus_utility_penalty,
    "harmful": harmful,
    "utility": utility,
}
"""Each takes a validation's metrics and the base model's. The lower the better."""


# --- checkpoints ------------------------------------------------------------------------------------------

_DIGEST_BYTES = hashlib.sha256().digest_size  # the file starts with the SHA-256 of the rest


def save_checkpoint(folder: Path, checkpoint: Checkpoint) -> None:
    """Replace the folder's checkpoint. A kill at any moment leaves the old one or the new one, whole."""
    folder.mkdir(parents=True, exist_ok=True)
    buffer = io.BytesIO()
    torch.save(asdict(checkpoint), buffer)
    partial = folder / f".{CHECKPOINT}.partial"
    with partial.open("wb") as file:
        file.write(hashlib.sha256(buffer.getbuffer()).digest())
        file.write(buffer.getbuffer())
        file.flush()
        # on disk before the rename: a power cut must not leave a renamed empty file
        os.fsync(file.fileno())
    os.replace(partial, folder / CHECKPOINT)


def load_checkpoint(folder: Path) -> Checkpoint | None:
    """Read the folder's checkpoint. None if there is none, or a damaged one, which is removed with a line."""
    path = folder / CHECKPOINT
    if not path.is_file():
        return None
    data = path.read_bytes()
    digest, content = data[:_DIGEST_BYTES], data[_DIGEST_BYTES:]
    if hashlib.sha256(content).digest() == digest:
        return Checkpoint(**torch.load(io.BytesIO(content), weights_only=True))
    print(f"{path}: damaged; removed, training starts over", flush=True)
    path.unlink()
    return None
