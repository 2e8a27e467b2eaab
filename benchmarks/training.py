"""Our training step against a plain one, and against what the machine's matrix unit allows.

    python benchmarks/training.py [--quick] [--json FILE]

Both sides train adapters of rank 16 on the same layers of the same weights under the same objective
(safe_clip, the only one the plain trainer has), on the same batch, alternating in one process on one thread;
a ratio is the median of the pairs. Ours is the step of the `finetune` stage in bfloat16, plain is
`plain_training.py`. The floor is the operations of our step's matrix products over the rate of the widest
product of the image tower, measured between the pairs; no dense gradient of a weight is among them.
`*_products_of_floor` is how near to that rate the same products come alone, in their own shapes, and
`*_products` their share of the step: what is left of it stands between the products. Peak memory is read in a
process of its own a side.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import resource
import statistics
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

os.environ.setdefault("OMP_NUM_THREADS", "1")

import numpy as np
import open_clip
import torch
from matrix_products import Products, matrix_rate, seconds
from plain_training import PlainTrainer
from torch import Tensor

from safeclip.encoders.load import Encoder, load_encoder
from safeclip.encoders.text_tower import accept_cut_text
from safeclip.settings import Lora, load_settings
from safeclip.training.rows import Rows
from safeclip.training.step import Student, embed_rows

BATCH = {"vitb32": 16, "picturebook": 128}
RANK, LEARNING_RATE = 16, 1e-4
LENGTHS = (10, 18)  # tokens of a caption, both ends included: the range of most COCO captions


def encoder_of(size: str) -> Encoder:
    """ViT-B/32 with random weights, or the picture-book base of the checkout."""
    if size == "picturebook":
        return load_encoder("data/base_encoder")
    torch.manual_seed(0)
    model = open_clip.create_model("ViT-B-32", precision="fp32").eval()
    accept_cut_text(model)
    return Encoder(
        model, tokenizer=None, transform=None, digest="", embed_dim=512, image_size=224, context_length=77
    )


def seeded_rows(encoder: Encoder, count: int) -> Rows:
    """Random captions and pixels; the teacher's embeddings are the encoder's own."""
    generator = torch.Generator().manual_seed(1)
    size = encoder.image_size
    shape = (2, count, 3, size, size)
    nothing = torch.zeros(count, encoder.embed_dim)
    rows = Rows(
        ids=tuple(str(row) for row in range(count)),
        tokens_safe=_captions(encoder, count, generator),
        tokens_generated=_captions(encoder, count, generator),
        pixels=torch.randn(shape, generator=generator).numpy(),
        text_unsafe=torch.ones(count, dtype=torch.bool),
        image_unsafe=torch.ones(count, dtype=torch.bool),
        teacher=None,
        image_index=torch.arange(count),
        target_text=nothing,
        target_image=nothing,
        axis=nothing[0],
    )
    with torch.no_grad():
        object.__setattr__(rows, "teacher", embed_rows(encoder.model, rows, torch.arange(count)))
    return rows


def _captions(encoder: Encoder, count: int, generator: torch.Generator) -> Tensor:
    end = encoder.model.token_embedding.num_embeddings - 1
    tokens = torch.zeros(count, encoder.context_length, dtype=torch.long)
    for row in tokens:
        length = int(torch.randint(LENGTHS[0], LENGTHS[1] + 1, (), generator=generator))
        row[1 : length - 1] = torch.randint(1, end - 1, (length - 2,), generator=generator)
        row[0], row[length - 1] = end - 1, end
    return tokens


def our_step(encoder: Encoder, rows: Rows, precision: str = "bfloat16") -> Callable[[], dict[str, float]]:
    """Return our step on all rows; each call takes the next one and returns its losses."""
    recipe = load_settings(Path(__file__).parents[1] / "params.yaml").finetune.model_copy(
        update={
            "objective": "safe_clip",
            "lora": Lora(rank=RANK, alpha=RANK, query=False, tokens=True),
            "steps": 1_000_000,
            "warmup_steps": 0,
            "batch_size": len(rows),
            "learning_rate": LEARNING_RATE,
            "precision": precision,
        }
    )
    student, everything = Student(encoder, recipe, seed=0), torch.arange(len(rows))
    return lambda: student.train_step(rows, everything, step=0)


def sides(size: str) -> tuple[Callable[[], object], Callable[[], object], dict[str, float]]:
    """Our step, the plain step, and how far their first losses are apart in float32."""
    encoder = encoder_of(size)
    rows = seeded_rows(encoder, BATCH[size])
    plain = PlainTrainer(encoder.model, RANK, LEARNING_RATE)
    exact, ours = our_step(encoder, rows, "float32"), our_step(encoder, rows)
    difference = exact()["total_loss"] - plain.step(rows)
    return ours, lambda: plain.step(rows), {"difference": difference}


def compare(size: str, pairs: int) -> dict[str, object]:
    ours, plain, check = sides(size)
    ours()  # casts the frozen weights, fills the allocator
    with Products() as products:
        ours()
    operations = products.operations
    tokens, width = (2 * BATCH[size] * 50, 768) if size == "vitb32" else (2 * BATCH[size] * 65, 128)
    slow, fast, alone, rates = [], [], [], []
    for _ in range(pairs):
        slow.append(seconds(plain))
        fast.append(seconds(ours))
        alone.append(products.seconds_alone())
        rates.append(matrix_rate(tokens, width))
    rate = statistics.median(rates)
    return {
        f"{size}_over_plain": statistics.median(a / b for a, b in zip(slow, fast, strict=True)),
        f"{size}_of_floor": statistics.median(
            operations / rate / took for rate, took in zip(rates, fast, strict=True)
        ),
        f"{size}_products": statistics.median(a / b for a, b in zip(alone, fast, strict=True)),
        f"{size}_products_of_floor": statistics.median(
            operations / rate / took for rate, took in zip(rates, alone, strict=True)
        ),
        f"{size}_quadruplets_per_s": BATCH[size] / statistics.median(fast),
        f"{size}_plain_quadruplets_per_s": BATCH[size] / statistics.median(slow),
        f"{size}_gflop": operations / 1e9,
        f"{size}_matrix_gflops": rate / 1e9,
        f"{size}_loss_difference": check["difference"],
        f"{size}_plain_s": slow,
        f"{size}_ours_s": fast,
        f"{size}_products_s": alone,
        f"{size}_rates": rates,
    }


def peak_mb(size: str, side: str) -> float:
    """Peak resident memory of two steps of one side, above what the rows and both models' weights hold."""
    encoder = encoder_of(size)
    rows = seeded_rows(encoder, BATCH[size])
    if side == "plain":
        trainer = PlainTrainer(encoder.model, RANK, LEARNING_RATE)
        step: Callable[[], object] = lambda: trainer.step(rows)  # noqa: E731
    else:
        step = our_step(encoder, rows)
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    step()
    step()
    return (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) / 1024


def peaks() -> dict[str, float]:
    """Of ViT-B/32; each side in its own process, first, while this one is small."""
    found = {}
    for side in ("ours", "plain"):
        child = [sys.executable, __file__, "--peak", side]
        answer = subprocess.run(child, check=True, capture_output=True, text=True).stdout
        found[f"vitb32_{side}_peak_mb"] = float(answer.split()[-1])
    return found


def machine() -> dict[str, object]:
    return {
        "machine": f"{platform.machine()}, {os.cpu_count()} cores",
        "cpu": torch.backends.cpu.get_cpu_capability(),
        "python": platform.python_version(),
        "torch": torch.__version__,
        "numpy": np.__version__,
        "threads": torch.get_num_threads(),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--quick", action="store_true", help="5 pairs instead of 11")
    parser.add_argument("--json", type=Path, metavar="FILE", help="also write the figures here")
    parser.add_argument("--peak", choices=("ours", "plain"), help=argparse.SUPPRESS)
    options = parser.parse_args()
    torch.set_num_threads(1)
    if options.peak:
        print(peak_mb("vitb32", options.peak))
        return
    pairs = 5 if options.quick else 11
    figures = machine() | peaks() | compare("vitb32", pairs) | compare("picturebook", pairs)
    if options.json:
        options.json.write_text(json.dumps(figures, indent=2) + "\n", encoding="utf-8")
    for name, value in figures.items():
        if isinstance(value, float):
            print(f"{name:<36} {value:.3f}")


if __name__ == "__main__":
    main()
