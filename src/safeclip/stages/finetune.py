"""finetune: a LoRA adapter trained under the chosen objective against the frozen teacher."""

from __future__ import annotations

import csv
from pathlib import Path

from tqdm import tqdm

from safeclip.encoders.load import Encoder, load_encoder
from safeclip.encoders.lora import save_adapter
from safeclip.records import read_dataset
from safeclip.scratch import open_scratch
from safeclip.settings.finetune import Finetune
from safeclip.settings.stage import StageSettings
from safeclip.stages.stage import RESULTS, main, output, write_json
from safeclip.training import loop
from safeclip.training.fragments import with_fragments
from safeclip.training.rows import Rows, prepare_rows
from safeclip.training.teacher import read_teacher

DATASET = RESULTS / "validate_data" / "dataset"
TEACHER = RESULTS / "embed_teacher"


class Settings(StageSettings):
    finetune: Finetune = Finetune()


def finetune(settings: Settings) -> None:
    """Train, going on from its scratch if it was killed; write adapter, history and metrics."""
    base = Path(settings.data.path) / "base_encoder"
    with open_scratch("finetune", settings, [base, DATASET, TEACHER]) as scratch:
        _finetune(settings, load_encoder(base), scratch.folder)


def _finetune(settings: Settings, encoder: Encoder, folder: Path) -> None:
    recipe = settings.finetune
    whole, val = (_rows(encoder, split, folder, recipe) for split in ("train", "val"))
    captions = read_dataset(DATASET, "train")["caption_safe"].to_pylist()
    train = with_fragments(whole, captions, encoder, **recipe.fragments.model_dump(), seed=settings.seed)
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
        write_json(out / "metrics.json", _metrics(outcome, len(whole), len(val)))


def _rows(encoder: Encoder, split: str, folder: Path, recipe: Finetune) -> Rows:
    table = read_dataset(DATASET, split)
    teacher = read_teacher(TEACHER / f"{split}.safetensors", table["id"].to_pylist(), encoder.digest)
    pixels = folder / f"{split}.pixels.npy"
    return prepare_rows(encoder, table, teacher, pixels, recipe.target_sharpness)


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
