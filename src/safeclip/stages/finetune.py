"""finetune: a LoRA adapter trained under the chosen objective against the frozen teacher."""

from __future__ import annotations

import csv
import hashlib
import shutil
from pathlib import Path

import torch
from tqdm import tqdm

from safeclip.encoders.load import Encoder, load_encoder
from safeclip.encoders.lora import save_adapter
from safeclip.records import read_dataset
from safeclip.settings.finetune import Finetune
from safeclip.settings.stage import StageSettings
from safeclip.stages.stage import RESULTS, main, output, write_json
from safeclip.training import loop
from safeclip.training.rows import Rows, prepare_rows
from safeclip.training.teacher import read_teacher

DATASET = RESULTS / "validate_data" / "dataset"
TEACHER = RESULTS / "embed_teacher"


class Settings(StageSettings):
    finetune: Finetune = Finetune()


def finetune(settings: Settings) -> None:
    """Train, resuming from work/finetune/<inputs> if it was killed; write adapter, history and metrics."""
    encoder = load_encoder(f"{settings.data.path}/base_encoder")
    folder = Path("work/finetune") / _inputs_digest(settings, encoder)
    folder.mkdir(parents=True, exist_ok=True)
    train, val = (_rows(encoder, split, folder) for split in ("train", "val"))
    recipe = settings.finetune
    batch = min(recipe.batch_size, len(train))
    with tqdm(total=recipe.steps * batch, unit="quadruplet", mininterval=5, desc="finetune") as bar:
        outcome = loop.finetune(
            encoder,
            train,
            val,
            recipe,
            seed=settings.seed,
            folder=folder,
            progress=lambda steps: bar.update(steps * batch),
        )
    with output("finetune") as out:
        save_adapter(outcome.model, out / "adapter.safetensors", base_digest=encoder.digest)
        _write_history(out / "history.csv", outcome)
        write_json(out / "metrics.json", _metrics(outcome, len(train), len(val)))
    shutil.rmtree(folder)


def _rows(encoder: Encoder, split: str, folder: Path) -> Rows:
    table = read_dataset(DATASET, split)
    teacher = read_teacher(TEACHER / f"{split}.safetensors", table["id"].to_pylist(), encoder.digest)
    return prepare_rows(encoder, table, teacher, folder / f"{split}.pixels.npy")


def _inputs_digest(settings: Settings, encoder: Encoder) -> str:
    """Of everything that the run's bytes follow from: params, threads, torch, the encoder, the data."""
    keys = [settings.finetune.model_dump_json(), settings.seed, settings.compute.threads]
    digest = hashlib.sha256(repr([*keys, torch.__version__, encoder.digest]).encode())
    for split in ("train", "val"):
        for path in [*sorted(DATASET.glob(f"{split}-*.parquet")), TEACHER / f"{split}.safetensors"]:
            digest.update(hashlib.sha256(path.read_bytes()).digest() if path.is_file() else b"missing")
    return digest.hexdigest()[:16]


def _write_history(path: Path, outcome: loop.Outcome) -> None:
    """One line a step: every loss by name, and the validation where there was one."""
    columns = list(dict.fromkeys(name for row in outcome.history for name in row))
    with path.open("w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, columns, lineterminator="\n")
        writer.writeheader()
        for row in outcome.history:
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
