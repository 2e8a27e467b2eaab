"""Preference tuning of the rewriter: direct preference optimisation (arXiv 2305.18290) with TRL's DPOTrainer.

The adapter that SFT left is trained further against a frozen copy of itself: candidates are drawn from it, a
reward ranks them, and the better of two answers to the same request becomes likelier, the worse one less so.
"""

from __future__ import annotations

import math
import tempfile
from collections.abc import Callable, Sequence
from typing import Any

from datasets import Dataset, disable_progress_bars
from transformers import PrinterCallback, set_seed
from trl import DPOConfig, DPOTrainer

from safeclip.errors import TrainingError
from safeclip.scratch import Scratch
from safeclip.settings.tune_rewriter import Preference as Settings
from safeclip.synthesis.language_model import load_tokenizer
from safeclip.synthesis.preferences import Preference
from safeclip.synthesis.prompts import prompt_messages
from safeclip.synthesis.rewriter import KeepsCheckpoints, StepReport, TunedRewriter, last_checkpoint

SAVE_EVERY = 5
"""Steps between two checkpoints."""


def prefer(
    tuned: TunedRewriter,
    folder: str,
    pairs: Sequence[Preference],
    settings: Settings,
    *,
    seed: int,
    report: Callable[[int, float], None] = lambda step, loss: None,
    scratch: Scratch | None = None,
) -> TunedRewriter:
    """The rewriter after DPO on the ranked pairs, with the loss of each step; changes `tuned.model` in place.

    Deterministic on one machine type and thread count. Checkpoints go to `scratch`, if there is one, which
    has none of another training; a run that finds one goes on from it. `TrainingError` if there are fewer
    pairs than a batch holds, or if the loss is not a number.
    """
    if len(pairs) < settings.batch_size:
        raise TrainingError(
            f"tune_rewriter: {len(pairs)} ranked pairs, fewer than a batch of {settings.batch_size}; raise "
            "`tune_rewriter.preference.captions` or lower its `margin`"
        )
    set_seed(seed)
    disable_progress_bars()
    model: Any = tuned.model
    trainer = DPOTrainer(
        model=model,
        args=_arguments(settings, scratch, seed),
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


def _example(pair: Preference) -> dict[str, list[dict[str, str]]]:
    def answer(text: str) -> list[dict[str, str]]:
        return [{"role": "assistant", "content": text}]

    prompt = prompt_messages(pair.request.caption, pair.request.concept)
    return {"prompt": prompt, "chosen": answer(pair.chosen), "rejected": answer(pair.rejected)}


def _arguments(settings: Settings, scratch: Scratch | None, seed: int) -> DPOConfig:
    return DPOConfig(
        output_dir=str(scratch.folder) if scratch else tempfile.gettempdir(),  # where nothing is written
        num_train_epochs=settings.epochs,
        per_device_train_batch_size=settings.batch_size,
        learning_rate=settings.learning_rate,
        lr_scheduler_type="cosine",
        warmup_steps=2,
        beta=settings.beta,
        loss_type=["sigmoid", "sft"],
        loss_weights=[1.0, settings.sft_weight],
        gradient_checkpointing=False,
        bf16=False,  # no autocast: the weights are loaded in the type asked for
        dataloader_pin_memory=False,
        max_length=256,
        seed=seed,
        data_seed=seed,
        logging_steps=1,
        save_strategy="steps" if scratch else "no",
        save_steps=SAVE_EVERY,
        save_total_limit=2,
        report_to="none",
        disable_tqdm=True,
    )
