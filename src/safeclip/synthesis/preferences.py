"""Preference tuning of the rewriter: draws of rewrites, a reward that ranks them, DPO on the ranked pairs.

The reward of a rewrite is (how unsafe it reads in the category that was asked) times (how much of the safe
caption it keeps). The first is read by a classifier of its own: logistic regressions, one a category, over
the hidden states of the frozen language model. It shares no features with the labeller, the filter and the
judge, so that a rewriter which learns to please it is still measured by others.
"""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from functools import partial
from itertools import groupby
from pathlib import Path
from typing import Any

import numpy as np
import torch
from datasets import Dataset, disable_progress_bars
from numpy.typing import NDArray
from sklearn.linear_model import LogisticRegression
from tqdm import tqdm
from transformers import PreTrainedModel, PreTrainedTokenizerBase, PrinterCallback, set_seed
from trl import DPOConfig, DPOTrainer

from safeclip.core.checkpoints import Scratch
from safeclip.core.errors import TrainingError
from safeclip.core.guard import Guard
from safeclip.core.taxonomy import Phrase
from safeclip.core.text import ordered_overlap
from safeclip.settings import Drawing
from safeclip.settings import Preference as PreferenceSettings
from safeclip.synthesis.answers import AnswerCheck, RewriteOutcome, clean
from safeclip.synthesis.captions import SafeCaption
from safeclip.synthesis.engines import RewriteRequest, TransformersRewriter, prompt_messages
from safeclip.synthesis.language_model import load_tokenizer
from safeclip.synthesis.microbatches import Batch, micro_batches
from safeclip.synthesis.pairs import CuratedPair
from safeclip.synthesis.rewriter import (
    KeepsCheckpoints,
    StepReport,
    TunedRewriter,
    last_checkpoint,
    trainer_arguments,
)
from safeclip.synthesis.row_noise import row_generator

_BATCH, _SEED = 64, 0
_PLACES = 4  # in safe captions, a phrase
Embed = Callable[[Sequence[str]], NDArray[np.float32]]


@dataclass(frozen=True)
class RankedPair:
    """Two rewrites of one caption, with their rewards; `chosen` is the better one."""

    request: RewriteRequest
    chosen: str
    rejected: str
    reward_chosen: float
    reward_rejected: float


@dataclass(frozen=True)
class Ranked:
    """The pairs, and what they were chosen from: rewards and outcomes of all rewrites, in order."""

    pairs: tuple[RankedPair, ...]
    rewards: tuple[float, ...]
    outcomes: tuple[RewriteOutcome, ...]


class HiddenStates:
    """Mean hidden state of a text's tokens a third up a language model, [N, width]; zeros for an empty text.

    Lower states tell what is named, higher ones what comes next. Takes the model over: the rest is cut off.
    """

    def __init__(self, model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase) -> None:
        base: Any = model.base_model  # without the output layer
        base.layers = base.layers[: -(-len(base.layers) // 3)]
        self._base = base
        self._tokenizer = tokenizer

    @torch.inference_mode()
    def __call__(self, texts: Sequence[str]) -> NDArray[np.float32]:
        batches = [self._of(texts[at : at + _BATCH]) for at in range(0, len(texts), _BATCH)]
        return (
            np.concatenate(batches) if batches else np.zeros((0, self._base.config.hidden_size), np.float32)
        )

    def _of(self, texts: Sequence[str]) -> NDArray[np.float32]:
        batch = self._tokenizer(list(texts), return_tensors="pt", padding=True).to(self._base.device)
        mask = batch["attention_mask"][..., None]
        states = self._base(**batch, use_cache=False).last_hidden_state.float()
        return ((states * mask).sum(1) / mask.sum(1).clamp(min=1)).cpu().numpy()


class CategoryReward:
    """Probability that a caption is unsafe in a category, learned from the curated pairs and the phrases.

    Each phrase stands alone and in safe captions, behind them or in place of some words. Negatives are safe
    captions as they are and with words of another, so that what is learned is not the putting in.
    """

    def __init__(
        self, embed: Embed, pairs: Sequence[CuratedPair], phrases: Sequence[Phrase], safe: Sequence[str]
    ) -> None:
        self._embed = embed
        rng = np.random.default_rng(_SEED)
        texts = [*(pair.caption_unsafe for pair in pairs), *(phrase.text for phrase in phrases)]
        names = [*(pair.categories for pair in pairs), *(phrase.categories for phrase in phrases)]
        for phrase in [phrase for phrase in phrases for _ in range(_PLACES)]:
            texts.append(_put(phrase.text, safe[int(rng.integers(len(safe)))], rng))
            names.append(phrase.categories)
        harmless = [*(pair.caption_safe for pair in pairs), *safe, *_mixed(safe, rng)]
        texts += harmless
        names += [()] * len(harmless)
        states = embed(texts)
        self._mean, self._scale = states.mean(0), states.std(0) + 1e-6
        self._models = {
            category: LogisticRegression(C=0.01, max_iter=2000, class_weight="balanced").fit(
                self._standard(states), [category in held for held in names]
            )
            for category in sorted({name for held in names for name in held})
        }

    def __call__(self, texts: Sequence[str], categories: Sequence[Sequence[str]]) -> NDArray[np.float64]:
        """For each text the highest probability among the categories asked for it, [N]."""
        if not texts:
            return np.zeros(0)
        states = self._standard(self._embed(texts))
        unsafe = {name: model.predict_proba(states)[:, 1] for name, model in self._models.items()}
        return np.array([max(unsafe[name][row] for name in asked) for row, asked in enumerate(categories)])

    def _standard(self, states: NDArray[np.float32]) -> NDArray[np.float32]:
        return (states - self._mean) / self._scale


def _put(words: str, caption: str, rng: np.random.Generator) -> str:
    """The words behind the caption, or in place of one to three of its own."""
    replaced = caption.split()
    at = int(rng.integers(len(replaced)))
    rest = replaced[at + int(rng.integers(1, 4)) :]
    return f"{caption} with {words}" if rng.random() < 0.5 else " ".join([*replaced[:at], words, *rest])


def _mixed(captions: Sequence[str], rng: np.random.Generator) -> list[str]:
    """Each caption twice, with up to three words of another put in."""
    mixed = []
    for caption in [caption for caption in captions for _ in range(2)]:
        other = captions[int(rng.integers(len(captions)))].split()
        at = int(rng.integers(len(other)))
        mixed.append(_put(" ".join(other[at : at + 3]), caption, rng))
    return mixed


def rank(
    requests: Sequence[RewriteRequest],
    outcomes: Sequence[RewriteOutcome],
    texts: Sequence[str],
    reward: CategoryReward,
    margin: float,
) -> Ranked:
    """The best and the worst rewrite of each caption, where their rewards differ by `margin` or more.

    Requests of one caption stand together. A rewrite that was rejected (unchanged, an echo, nonsense) has the
    reward 0 and can only be the worse one, with its text out of `texts`; one that the guard destroyed is not
    looked at.
    """
    unsafe = reward(
        [outcome.text or "" for outcome in outcomes], [request.categories for request in requests]
    )
    rewards = [
        float(score) * ordered_overlap(outcome.text, request.caption) if outcome.text else 0.0
        for request, outcome, score in zip(requests, outcomes, unsafe, strict=True)
    ]
    rows = [
        (request, text, value)
        for request, outcome, text, value in zip(requests, outcomes, texts, rewards, strict=True)
        if text and not outcome.destroyed
    ]
    pairs = []
    for _, group in groupby(rows, key=lambda row: (row[0].caption, row[0].concept)):
        ranked = sorted(group, key=lambda row: row[2])
        (request, worst, low), (_, best, high) = ranked[0], ranked[-1]
        if high - low >= margin:
            pairs.append(RankedPair(request, best, worst, high, low))
    return Ranked(tuple(pairs), tuple(rewards), tuple(outcomes))


def preference_report(ranked: Ranked) -> dict[str, Any]:
    """How many rewrites there were, what became of them, and how far apart the pairs stand."""
    return {
        "rewrites": len(ranked.outcomes),
        "rejected": sum(outcome.text is None and not outcome.destroyed for outcome in ranked.outcomes),
        "destroyed": sum(outcome.destroyed for outcome in ranked.outcomes),
        "mean_reward": round(float(np.mean(ranked.rewards)), 6),
        "pairs": len(ranked.pairs),
        "mean_reward_chosen": _mean([pair.reward_chosen for pair in ranked.pairs]),
        "mean_reward_rejected": _mean([pair.reward_rejected for pair in ranked.pairs]),
    }


def _mean(values: Sequence[float]) -> float | None:
    return round(float(np.mean(values)), 6) if values else None


def draw_requests(
    captions: Sequence[SafeCaption], phrases: Sequence[Phrase], guard: Guard, *, draws: int, seed: int
) -> list[RewriteRequest]:
    """Return `draws` requests for each caption, side by side, with one phrase that the guard allows for it.

    A caption that no phrase is allowed for is left out.
    """
    requests = []
    for caption in captions:
        allowed = [
            phrase
            for phrase in phrases
            if not guard.trips(f"{phrase.text}: {caption.caption}", phrase.categories)
        ]
        if allowed:
            drawn = allowed[int(row_generator(seed, caption.id, "preference").integers(len(allowed)))]
            requests += [
                RewriteRequest(f"{caption.id}#{number:02d}", caption.caption, drawn.text, drawn.categories)
                for number in range(draws)
            ]
    return requests


def draw_rewrites(
    folder: str,
    adapter: Path,
    requests: Sequence[RewriteRequest],
    settings: Drawing,
    guard: Guard,
    *,
    seed: int,
    scratch: Scratch | None = None,
) -> tuple[list[RewriteOutcome], list[str]]:
    """Return what becomes of each rewrite, and its cleaned text, in the order of the requests.

    What the guard destroys has an empty text. Finished micro-batches are kept in `scratch`, if there is one,
    which must be of these requests and this model; a run that finds some goes on after them.
    """
    drawing = _Drawing(folder, adapter, settings, guard, seed)
    by_id: dict[str, tuple[RewriteOutcome, str]] = {}
    batches = micro_batches(requests, settings.batch_size)
    for number, batch in enumerate(tqdm(batches, desc="rewrites", mininterval=10, disable=None)):
        rows = drawing.kept(scratch, number, batch) if scratch else drawing.draw(batch)
        by_id |= {outcome.id: (outcome, text) for outcome, text in rows}
    return [by_id[request.id][0] for request in requests], [by_id[request.id][1] for request in requests]


class _Drawing:
    """Micro-batches one after another; the model is loaded for the first that is not kept."""

    def __init__(self, folder: str, adapter: Path, settings: Drawing, guard: Guard, seed: int) -> None:
        self._make = partial(TransformersRewriter, folder, adapter, settings, seed=seed)
        self._engine: TransformersRewriter | None = None
        self._check = AnswerCheck(guard)

    def draw(self, batch: Batch) -> list[tuple[RewriteOutcome, str]]:
        self._engine = self._engine or self._make()
        rows = []
        for request, answer in zip(batch, self._engine.rewrite(batch), strict=True):
            outcome = self._check(request, answer)
            text = "" if outcome.destroyed else clean(answer.text, complete=answer.complete)
            rows.append((outcome, text))
        return rows

    def kept(self, scratch: Scratch, number: int, batch: Batch) -> list[tuple[RewriteOutcome, str]]:
        """As `draw`; from the scratch if it is there, else put there."""
        piece = f"draws-{number:05d}"
        file = scratch.folder / f"{piece}.json"
        if not scratch.has(piece):
            rows = [(asdict(outcome), text) for outcome, text in self.draw(batch)]
            file.write_text(json.dumps(rows), encoding="utf-8")
            scratch.keep(piece, [file])
        kept = json.loads(file.read_text(encoding="utf-8"))
        return [(RewriteOutcome(**outcome), text) for outcome, text in kept]


SAVE_EVERY = 5
"""Steps between two checkpoints."""


def tune_dpo(
    tuned: TunedRewriter,
    folder: str,
    pairs: Sequence[RankedPair],
    cfg: PreferenceSettings,
    *,
    seed: int,
    report: Callable[[int, float], None] = lambda step, loss: None,
    scratch: Scratch | None = None,
) -> TunedRewriter:
    """Tune the rewriter by direct preference optimisation (arXiv 2305.18290), with TRL's DPOTrainer.

    The adapter that SFT left is trained further against a frozen copy of itself: of two answers to the same
    request the better one becomes likelier, the worse one less so. Changes `tuned.model` in place and returns
    it with the loss of each step.

    Deterministic on one machine type and thread count. Checkpoints go to `scratch`, if there is one, which
    has none of another training; a run that finds one goes on from it. `TrainingError` if there are fewer
    pairs than a batch holds, or if the loss is not a number.
    """
    if len(pairs) < cfg.batch_size:
        raise TrainingError(
            f"tune_rewriter: {len(pairs)} ranked pairs, fewer than a batch of {cfg.batch_size}; raise "
            "`tune_rewriter.preference.captions` or lower its `margin`"
        )
    set_seed(seed)
    disable_progress_bars()
    model: Any = tuned.model
    trainer = DPOTrainer(
        model=model,
        args=_arguments(cfg, scratch, seed),
        train_dataset=Dataset.from_list([_example(pair) for pair in pairs]),
        processing_class=load_tokenizer(folder),
        callbacks=[StepReport(report), *([KeepsCheckpoints(scratch)] if scratch else [])],
    )
    trainer.remove_callback(PrinterCallback)
    trainer.train(resume_from_checkpoint=last_checkpoint(scratch) if scratch else None)
    if "ref" in model.peft_config:  # TRL's frozen copy of what SFT left
        model.delete_adapter("ref")
    losses = tuple(float(log["loss"]) for log in trainer.state.log_history if "loss" in log)
    if not all(map(math.isfinite, losses)):
        raise TrainingError(
            "tune_rewriter: the loss is not a number; lower `tune_rewriter.preference.learning_rate`"
        )
    return TunedRewriter(model, losses)


def _example(pair: RankedPair) -> dict[str, list[dict[str, str]]]:
    def answer(text: str) -> list[dict[str, str]]:
        return [{"role": "assistant", "content": text}]

    prompt = prompt_messages(pair.request.caption, pair.request.concept)
    return {"prompt": prompt, "chosen": answer(pair.chosen), "rejected": answer(pair.rejected)}


def _arguments(cfg: PreferenceSettings, scratch: Scratch | None, seed: int) -> DPOConfig:
    return DPOConfig(
        **trainer_arguments(cfg, scratch, seed=seed, warmup_steps=2, save_every=SAVE_EVERY),
        beta=cfg.beta,
        loss_type=["sigmoid", "sft"],
        loss_weights=[1.0, cfg.sft_weight],
        gradient_checkpointing=False,
    )
