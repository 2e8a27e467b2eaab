"""A tiny run as its own process, to be killed: train_tiny.py FOLDER OUT PAUSE (seconds a step)."""

from __future__ import annotations

import json
import sys
import time
from pathlib import Path

import torch

from safeclip.encoders.embed import embed_quadruplets
from safeclip.encoders.load import load_encoder
from safeclip.encoders.lora import save_adapter
from safeclip.training.loop import finetune
from safeclip.training.rows import prepare_rows

sys.path.insert(0, str(Path(__file__).parents[2]))

from tests.support.params import make_settings
from tests.training.tiny import tiny_table

RECIPE = make_settings(
    finetune={
        "lora": {"rank": 4, "alpha": 4},
        "steps": 12,
        "batch_size": 8,
        "learning_rate": 5e-3,
        "warmup_steps": 2,
        "precision": "float32",
        "validate_every": 4,
        "checkpoint_every": 3,
    }
).finetune


def main(folder: Path, out: Path, pause: float) -> None:
    torch.set_num_threads(1)
    encoder = load_encoder(folder / "base")
    out.mkdir(exist_ok=True)
    tables = {split: tiny_table(count, split) for split, count in (("train", 24), ("val", 12))}
    rows = [
        prepare_rows(encoder, table, embed_quadruplets(encoder, table, 8), out / f"{split}.npy")
        for split, table in tables.items()
    ]
    outcome = finetune(
        encoder, *rows, RECIPE, seed=0, folder=out / "work", progress=lambda steps: time.sleep(pause)
    )
    save_adapter(outcome.model, out / "adapter.safetensors", base_digest=encoder.digest)
    (out / "history.json").write_text(json.dumps(outcome.history))


if __name__ == "__main__":
    main(Path(sys.argv[1]), Path(sys.argv[2]), float(sys.argv[3]))
