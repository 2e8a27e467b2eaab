"""Supervised fine-tuning of the rewriter: LoRA on the curated pairs, with TRL's SFTTrainer.

The loss falls on the answer alone (the unsafe caption and its end token). The adapter is the result; the
base model stays where it is.
"""

from __future__ import annotations

import csv
import json
import math
import shutil
import tempfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from datasets import Dataset, disable_progress_bars
from peft import LoraConfig, PeftModel, get_peft_model
from transformers import (
    PrinterCallback,
    TrainerCallback,
    TrainerControl,
    TrainerState,
    TrainingArguments,
    set_seed,
)
from trl import SFTConfig, SFTTrainer

from safeclip.core.checkpoints import Scratch
from safeclip.core.errors import TrainingError
from safeclip.settings import Preference, TuneRewriter
from safeclip.synthesis.engines import prompt_messages
from safeclip.synthesis.language_model import load_model, load_tokenizer
from safeclip.synthesis.pairs import CuratedPair

SAVE_EVERY = 10
"""Steps between two checkpoints."""
_LAYERS = ("q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj")


class AnswerTrainer(SFTTrainer):
    """SFTTrainer that puts the answer's tokens alone through the output layer.

    Without a GPU, TRL scores every position and masks afterwards; the output layer is a fifth of this model,
    the answer a quarter of the tokens.
    """

    def compute_loss(
        self,
        model: torch.nn.Module,
        inputs: dict[str, torch.Tensor],
        return_outputs: bool = False,
        num_items_in_batch: torch.Tensor | int | None = None,
    ) -> torch.Tensor:
        """Mean cross-entropy of the tokens that carry a label (-100 marks those that do not)."""
        language_model = self.accelerator.unwrap_model(model).get_base_model()
        hidden = language_model.model(
            inputs["input_ids"], attention_mask=inputs["attention_mask"], use_cache=False
        )
        targets = inputs["labels"][:, 1:]
        answer = targets != -100
        logits = language_model.lm_head(hidden.last_hidden_state[:, :-1][answer]).float()
        return torch.nn.functional.cross_entropy(logits, targets[answer])


class StepReport(TrainerCallback):
    """Hands (step, loss) on; stands in for the trainer's own printing."""

    def __init__(self, report: Callable[[int, float], None]) -> None:
        self._report = report

    def on_log(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **context: Any
    ) -> None:
        logs = context["logs"]
        if "loss" in logs:
            self._report(state.global_step, float(logs["loss"]))


class KeepsCheckpoints(TrainerCallback):
    """Counts each checkpoint as finished once the trainer has written it."""

    def __init__(self, scratch: Scratch) -> None:
        self._scratch = scratch

    def on_save(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **context: Any
    ) -> None:
        name = f"checkpoint-{state.global_step}"
        files = (self._scratch.folder / name).rglob("*")
        self._scratch.keep(name, [file for file in files if file.is_file()])


def last_checkpoint(scratch: Scratch) -> str | None:
    """The folder of the last whole checkpoint, None if there is none; half-written ones are removed."""
    folders = [path for path in scratch.folder.glob("checkpoint-*") if path.is_dir()]
    for folder in sorted(folders, key=lambda path: int(path.name.partition("-")[2]), reverse=True):
        if scratch.has(folder.name):
            print(f"{scratch.stage}: goes on from {folder.name}", flush=True)
            return str(folder)
        shutil.rmtree(folder)
    return None


@dataclass(frozen=True)
class TunedRewriter:
    """The model with its adapter, and the loss of each optimiser step, in order."""

    model: PeftModel
    losses: tuple[float, ...]


def tune(
    folder: str,
    pairs: Sequence[CuratedPair],
    cfg: TuneRewriter,
    *,
    seed: int,
    report: Callable[[int, float], None] = lambda step, loss: None,
    scratch: Scratch | None = None,
) -> TunedRewriter:
    """Fine-tune the model in `folder` on the pairs: LoRA, loss on the answers.

    Deterministic on one machine type and thread count; `report` is called with each step and its loss. Every
    `SAVE_EVERY` steps a checkpoint goes to `scratch`, if there is one; a run that finds one goes on from it.
    `TrainingError` if the loss is not a number.
    """
    set_seed(seed)
    disable_progress_bars()
    lora = LoraConfig(
        r=cfg.lora_rank,
        lora_alpha=cfg.lora_alpha,
        target_modules=list(_LAYERS),
        task_type="CAUSAL_LM",
    )
    model = get_peft_model(load_model(folder, getattr(torch, cfg.dtype), attention="eager"), lora)
    trainer = AnswerTrainer(
        model=model,
        args=SFTConfig(
            **trainer_arguments(
                cfg, scratch, seed=seed, warmup_steps=cfg.warmup_steps, save_every=SAVE_EVERY
            ),
            completion_only_loss=True,
            activation_checkpointing=False,  # memory is not short here, and it costs a third more time
        ),
        train_dataset=Dataset.from_list([_conversation(pair) for pair in pairs]),
        processing_class=load_tokenizer(folder),
        callbacks=[StepReport(report), *([KeepsCheckpoints(scratch)] if scratch else [])],
    )
    trainer.remove_callback(PrinterCallback)
    trainer.train(resume_from_checkpoint=last_checkpoint(scratch) if scratch else None)
    losses = tuple(float(log["loss"]) for log in trainer.state.log_history if "loss" in log)
    if not all(map(math.isfinite, losses)):
        raise TrainingError("tune_rewriter: the loss is not a number; lower `tune_rewriter.learning_rate`")
    return TunedRewriter(model, losses)


def save_rewriter(tuned: TunedRewriter, spec: str, out: Path) -> None:
    """Write `adapter/` (peft: safetensors and config) and `loss.csv`; the same bytes for the same weights."""
    adapter = out / "adapter"
    tuned.model.save_pretrained(str(adapter), selected_adapters=["default"])
    (adapter / "README.md").unlink(missing_ok=True)
    _make_config_reproducible(adapter / "adapter_config.json", spec)
    with (out / "loss.csv").open("w", newline="", encoding="utf-8") as stream:
        writer = csv.writer(stream, lineterminator="\n")
        writer.writerow(["step", "loss"])
        writer.writerows((step, f"{loss:.4f}") for step, loss in enumerate(tuned.losses, start=1))


def _conversation(pair: CuratedPair) -> dict[str, list[dict[str, str]]]:
    answer = {"role": "assistant", "content": pair.caption_unsafe}
    return {"prompt": prompt_messages(pair.caption_safe, pair.concept), "completion": [answer]}


def trainer_arguments(
    cfg: TuneRewriter | Preference, scratch: Scratch | None, *, seed: int, warmup_steps: int, save_every: int
) -> dict[str, Any]:
    """Return the arguments that SFT and DPO share; without `scratch` no checkpoint is written."""
    return {
        "output_dir": str(scratch.folder) if scratch else tempfile.gettempdir(),  # where nothing is written
        "num_train_epochs": cfg.epochs,
        "per_device_train_batch_size": cfg.batch_size,
        "learning_rate": cfg.learning_rate,
        "lr_scheduler_type": "cosine",
        "warmup_steps": warmup_steps,
        "bf16": False,  # no autocast: the weights are loaded in the type asked for
        "dataloader_pin_memory": False,
        "max_length": 256,
        "seed": seed,
        "data_seed": seed,
        "logging_steps": 1,
        "save_strategy": "steps" if scratch else "no",
        "save_steps": save_every,
        "save_total_limit": 2,
        "report_to": "none",
        "disable_tqdm": True,
    }


def _make_config_reproducible(path: Path, spec: str) -> None:
    """Sort the set that peft writes in no fixed order, and replace the path of this machine by `spec`."""
    config = json.loads(path.read_text(encoding="utf-8"))
    config["base_model_name_or_path"] = spec
    config["target_modules"] = sorted(config["target_modules"])
    path.write_text(json.dumps(config, indent=2, sort_keys=True) + "\n", encoding="utf-8")
