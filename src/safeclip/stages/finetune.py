"""finetune: a LoRA adapter trained under the chosen objective against the frozen teacher."""

from __future__ import annotations

import csv
import os
import sys
from pathlib import Path
from typing import NoReturn

import torch
from tqdm import tqdm

from safeclip.core.checkpoints import open_scratch
from safeclip.core.files import write_json
from safeclip.core.records import read_dataset
from safeclip.core.stage import RESULTS, main, output
from safeclip.core.taxonomy import load_taxonomy
from safeclip.encoders.load import Encoder, load_encoder
from safeclip.encoders.lora import save_adapter, set_adapter
from safeclip.encoders.teacher import read_teacher
from safeclip.settings import Finetune, StageSettings
from safeclip.training import loop
from safeclip.training.augment import crop_captions, insert_concepts
from safeclip.training.distributed import Ranks, init_distributed
from safeclip.training.rows import Rows, prepare_rows

DATASET = RESULTS / "validate_data" / "dataset"
TEACHER = RESULTS / "embed_teacher"


class Settings(StageSettings):
    finetune: Finetune = Finetune()


def finetune(settings: Settings) -> None:
    """Train, going on from its scratch if it was killed; write adapters, history and metrics.

    Where params ask for more processes, this one becomes torchrun, which starts them; on several machines
    torchrun is started by hand on each, with `-m safeclip.stages.finetune`.
    """
    if settings.finetune.processes > 1 and "WORLD_SIZE" not in os.environ:
        _become_torchrun(settings.finetune.processes)
    base = Path(settings.data.path) / "base_encoder"
    with init_distributed() as ranks:
        if not ranks.is_main:
            _train(settings, load_encoder(base), Path(ranks.broadcast("")), ranks)
            return
        inputs = [base, DATASET, TEACHER, Path(settings.data.path) / "taxonomy.yaml"]
        with open_scratch("finetune", settings, inputs) as scratch:
            ranks.broadcast(str(scratch.folder))
            _train(settings, load_encoder(base), scratch.folder, ranks)


def _become_torchrun(processes: int) -> NoReturn:
    """Replace this process: a signal to the stage then reaches torchrun, and its end ends the ranks."""
    torchrun = ["-m", "torch.distributed.run", "--standalone", f"--nproc-per-node={processes}"]
    os.execv(sys.executable, [sys.executable, *torchrun, "-m", "safeclip.stages.finetune"])


def _train(settings: Settings, encoder: Encoder, folder: Path, ranks: Ranks) -> None:
    if torch.cuda.is_available():
        encoder = encoder.with_model(encoder.model.cuda(), encoder.digest)
    recipe = settings.finetune
    whole, val = _splits(encoder, folder, recipe, ranks)
    captions = read_dataset(DATASET, "train")["caption_safe"].to_pylist()
    phrases = [phrase.text for phrase in load_taxonomy(Path(settings.data.path) / "taxonomy.yaml").phrases]
    train = crop_captions(whole, captions, encoder, **recipe.crops.model_dump(), seed=settings.seed)
    insertion = recipe.concept_insertion.model_dump()
    train = insert_concepts(train, captions, phrases, encoder, **insertion, seed=settings.seed)
    batch = min(recipe.batch_size, len(train))
    total = recipe.steps * batch
    with tqdm(
        total=total, unit="quadruplet", mininterval=5, desc="finetune", disable=not ranks.is_main
    ) as bar:
        outcome = loop.finetune(
            encoder,
            train,
            val,
            recipe,
            seed=settings.seed,
            folder=folder,
            progress=lambda steps: bar.update(steps * batch),
            report=lambda metrics: bar.write(_line(metrics, recipe.steps)) if ranks.is_main else None,
            ranks=ranks,
        )
    if ranks.is_main:
        with output("finetune") as out:
            _write(out, outcome, encoder, len(whole), len(val))


def _splits(encoder: Encoder, folder: Path, recipe: Finetune, ranks: Ranks) -> list[Rows]:
    """Train and val; on each machine one rank decodes the pictures, the others read its file."""
    folder.mkdir(parents=True, exist_ok=True)
    if ranks.local_rank > 0:
        ranks.barrier()
    rows = [_rows(encoder, split, folder, recipe, ranks) for split in ("train", "val")]
    if ranks.local_rank == 0:
        ranks.barrier()
    return rows


def _rows(encoder: Encoder, split: str, folder: Path, recipe: Finetune, ranks: Ranks) -> Rows:
    table = read_dataset(DATASET, split)
    teacher = read_teacher(TEACHER / f"{split}.safetensors", table["id"].to_pylist(), encoder.digest)
    pixels = folder / f"{split}-{ranks.machine}.pixels.npy"
    return prepare_rows(
        encoder, table, teacher, pixels, recipe.target_inverse_temperature, decoded=ranks.local_rank > 0
    )


def _line(metrics: dict[str, float], steps: int) -> str:
    """A validation as one line of the log."""
    values = ", ".join(
        f"{name.removeprefix('val_')} {value:.3f}"
        for name, value in metrics.items()
        if name == "total_loss" or name.startswith("val_")
    )
    return f"step {metrics['step']}/{steps}: {values}"


def _write(out: Path, outcome: loop.Outcome, encoder: Encoder, train_rows: int, val_rows: int) -> None:
    save_adapter(outcome.model, out / "adapter.safetensors", base_digest=encoder.digest)
    _write_history(out / "history.csv", outcome)
    _write_validation(out / "validation.csv", outcome)
    write_json(out / "metrics.json", _metrics(outcome, train_rows, val_rows))
    set_adapter(outcome.model, outcome.last)
    save_adapter(outcome.model, out / "last.safetensors", base_digest=encoder.digest)


def _write_history(path: Path, outcome: loop.Outcome) -> None:
    """One line a step: every loss by name, and the validation where there was one."""
    _write_rows(path, outcome.history)


def _write_validation(path: Path, outcome: loop.Outcome) -> None:
    """One line a validation, the base model's as step 0: what the curves are drawn from."""
    rows = [{"step": 0, **outcome.base}]
    for row in outcome.history:
        metrics = {name: row[f"val_{name}"] for name in outcome.base if f"val_{name}" in row}
        rows += [{"step": row["step"], **metrics}] if metrics else []
    _write_rows(path, rows)


def _write_rows(path: Path, rows: list[dict[str, float]]) -> None:
    columns = list(dict.fromkeys(name for row in rows for name in row))
    with path.open("w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, columns, lineterminator="\n")
        writer.writeheader()
        for row in rows:
            writer.writerow({name: f"{value:.6g}" for name, value in row.items()})


def _metrics(outcome: loop.Outcome, train_rows: int, val_rows: int) -> dict:
    return {
        "best_step": outcome.best_step,
        "steps": len(outcome.history),
        "rows": {"train": train_rows, "val": val_rows},
        "val": {"base": outcome.base, "candidate": outcome.best},
    }


if __name__ == "__main__":
    main(finetune, Settings)
