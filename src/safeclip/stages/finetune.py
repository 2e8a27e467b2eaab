"""finetune: train a LoRA adapter under the chosen objective against the frozen teacher."""

from __future__ import annotations

import csv
import os
import sys
from pathlib import Path

import torch
from tqdm import tqdm

from safeclip.core.artifacts import DATASET, TEACHER, DataFolder
from safeclip.core.checkpoints import open_scratch
from safeclip.core.device import default_device, resolve_setting
from safeclip.core.files import write_json
from safeclip.core.records import read_dataset
from safeclip.core.stage import main, output
from safeclip.core.taxonomy import load_taxonomy
from safeclip.encoders.load import Encoder, load_encoder
from safeclip.encoders.lora import save_adapter, set_adapter
from safeclip.encoders.teacher import read_teacher
from safeclip.settings import Finetune, Settings
from safeclip.training import loop
from safeclip.training.augment import crop_captions, insert_concepts
from safeclip.training.distributed import Ranks, init_distributed
from safeclip.training.objectives import find_objective
from safeclip.training.rows import Rows, prepare_rows


def finetune(settings: Settings) -> None:
    """Train, going on from the scratch folder if a run was killed; write adapters, history and metrics.

    If params ask for several processes, this one becomes torchrun, which starts them. On several machines,
    torchrun is started by hand on each, with `-m safeclip.stages.finetune`.
    """
    find_objective(settings.finetune.objective)
    processes = settings.finetune.processes
    if processes > 1 and "WORLD_SIZE" not in os.environ:
        # replaces this process: a signal to the stage then reaches torchrun, and its end ends the ranks
        torchrun = ["-m", "torch.distributed.run", "--standalone", f"--nproc-per-node={processes}"]
        os.execv(sys.executable, [sys.executable, *torchrun, "-m", "safeclip.stages.finetune"])
    settings = resolve_setting(settings, "finetune", "precision", default_device())
    data = DataFolder(Path(settings.data.path))
    with init_distributed() as ranks:
        if not ranks.is_main:
            _train(settings, data, Path(ranks.broadcast("")), ranks)
            return
        inputs = [data.base_encoder, DATASET, TEACHER, data.taxonomy]
        with open_scratch("finetune", settings, inputs) as scratch:
            ranks.broadcast(str(scratch.folder))
            _train(settings, data, scratch.folder, ranks)


def _train(settings: Settings, data: DataFolder, folder: Path, ranks: Ranks) -> None:
    """Train on `train` with augmented captions, choose the step on `val`; the main rank writes."""
    cfg = settings.finetune
    encoder = load_encoder(data.base_encoder)
    if torch.cuda.is_available():
        encoder = encoder.with_model(encoder.model.cuda(), encoder.digest)

    rows, val = _load_rows(encoder, cfg, folder, ranks)
    captions = read_dataset(DATASET, "train")["caption_safe"].to_pylist()
    phrases = [phrase.text for phrase in load_taxonomy(data.taxonomy).phrases]
    train = crop_captions(rows, captions, encoder, **cfg.crops.model_dump(), seed=settings.seed)
    insertion = cfg.concept_insertion.model_dump()
    train = insert_concepts(train, captions, phrases, encoder, **insertion, seed=settings.seed)

    batch = min(cfg.batch_size, len(train))
    total = cfg.steps * batch
    with tqdm(
        total=total, unit="quadruplet", mininterval=5, desc="finetune", disable=not ranks.is_main
    ) as bar:

        def report(metrics: dict[str, float]) -> None:
            values = ", ".join(
                f"{name.removeprefix('val_')} {value:.3f}"
                for name, value in metrics.items()
                if name == "total_loss" or name.startswith("val_")
            )
            if ranks.is_main:
                bar.write(f"step {metrics['step']}/{cfg.steps}: {values}")

        result = loop.finetune(
            encoder,
            train,
            val,
            cfg,
            seed=settings.seed,
            folder=folder,
            progress=lambda steps: bar.update(steps * batch),
            report=report,
            ranks=ranks,
        )
    if ranks.is_main:
        with output("finetune") as out:
            _write(out, result, encoder.digest, {"train": len(rows), "val": len(val)})


def _load_rows(encoder: Encoder, cfg: Finetune, folder: Path, ranks: Ranks) -> list[Rows]:
    """Prepare train and val. On each machine one rank decodes the images, the others read its file."""
    folder.mkdir(parents=True, exist_ok=True)
    decodes = ranks.local_rank == 0
    if not decodes:
        ranks.barrier()
    splits = []
    for split in ("train", "val"):
        table = read_dataset(DATASET, split)
        teacher = read_teacher(TEACHER / f"{split}.safetensors", table["id"].to_pylist(), encoder.digest)
        pixels = folder / f"{split}-{ranks.machine}.pixels.npy"
        temperature = cfg.target_inverse_temperature
        splits.append(prepare_rows(encoder, table, teacher, pixels, temperature, decoded=not decodes))
    if decodes:
        ranks.barrier()
    return splits


def _write(out: Path, result: loop.FinetuneResult, base_digest: str, rows: dict[str, int]) -> None:
    save_adapter(result.model, out / "adapter.safetensors", base_digest=base_digest)
    # a line a step: every loss by name, and the validation where there was one
    _write_csv(out / "history.csv", result.history)
    # a line a validation, the base model's as step 0: what the curves are drawn from
    validations = [{"step": 0, **result.base}]
    for row in result.history:
        metrics = {name: row[f"val_{name}"] for name in result.base if f"val_{name}" in row}
        validations += [{"step": row["step"], **metrics}] if metrics else []
    _write_csv(out / "validation.csv", validations)
    summary = {
        "best_step": result.best_step,
        "steps": len(result.history),
        "rows": rows,
        "val": {"base": result.base, "candidate": result.best},
    }
    write_json(out / "metrics.json", summary)
    # last, because it changes the model that the best adapter is read off
    set_adapter(result.model, result.last)
    save_adapter(result.model, out / "last.safetensors", base_digest=base_digest)


def _write_csv(path: Path, rows: list[dict[str, float]]) -> None:
    columns = list(dict.fromkeys(name for row in rows for name in row))
    with path.open("w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, columns, lineterminator="\n")
        writer.writeheader()
        for row in rows:
            writer.writerow({name: f"{value:.6g}" for name, value in row.items()})


if __name__ == "__main__":
    main(finetune)
