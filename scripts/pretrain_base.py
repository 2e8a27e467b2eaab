"""Pretrain the picture-book base encoder: plain CLIP on freshly drawn scenes, safe and unsafe alike.

Symmetric InfoNCE with a learnable scale (arXiv 2103.00020), AdamW, cosine schedule, bf16 matrix products.
Writes a folder that open_clip and transformers read. Killed at any time it resumes from its last checkpoint,
and a given seed gives the same weights however often that happened (on one kind of machine).
"""

from __future__ import annotations

import argparse
import hashlib
import json
import math
import os
import shutil
import sys
from collections import deque
from collections.abc import Iterator
from concurrent.futures import Future, ProcessPoolExecutor
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import numpy as np
import open_clip
import torch
from open_clip.constants import OPENAI_DATASET_MEAN, OPENAI_DATASET_STD
from pretraining_evaluation import HeldOut, evaluate, held_out_scenes
from pretraining_scenes import Batch, Scenery, draw_batch
from pretraining_words import make_scenery, write_tokenizer
from safetensors.torch import save_file
from torch import Tensor, nn
from torch.nn import functional as F
from torch.nn.attention import SDPBackend, sdpa_kernel
from tqdm import tqdm

from safeclip.core.errors import SafeclipError
from safeclip.encoders.load import CONFIG, WEIGHTS, load_encoder
from safeclip.encoders.text_tower import accept_cut_text, cut_to_longest

VOCABULARY_SIZE = 4000
MODEL: dict[str, Any] = {
    "embed_dim": 128,
    "vision_cfg": {"image_size": 64, "patch_size": 8, "width": 128, "head_width": 32, "layers": 4},
    "text_cfg": {
        "context_length": 40,
        "vocab_size": VOCABULARY_SIZE,
        "hf_tokenizer_name": "local",  # any name: open_clip then reads the tokenizer from the folder itself
        "width": 128,
        "heads": 4,
        "layers": 4,
    },
}
IMAGE_SIZE = 64
MAX_SCALE = math.log(100.0)
HELD_OUT = 2000


def write_config(folder: Path) -> None:
    """The configuration in open_clip's layout."""
    preprocess = {"mean": OPENAI_DATASET_MEAN, "std": OPENAI_DATASET_STD, "interpolation": "bicubic"}
    text = json.dumps({"model_cfg": MODEL, "preprocess_cfg": preprocess}, indent=2)
    (folder / CONFIG).write_text(text + "\n", encoding="utf-8")


def export(model: nn.Module, run: Path, out: Path) -> None:
    """Write config, tokenizer and fp16 weights to `out`, which appears whole or not at all."""
    partial = out.with_name(f".{out.name}.partial")
    shutil.rmtree(partial, ignore_errors=True)
    shutil.copytree(run / "parts", partial)
    save_file({k: v.half().contiguous() for k, v in sorted(model.state_dict().items())}, partial / WEIGHTS)
    shutil.rmtree(out, ignore_errors=True)
    os.replace(partial, out)


class Trainer:
    """Model, optimiser and the step reached; `resume` and `save` keep them in one file."""

    def __init__(self, args: argparse.Namespace, run: Path) -> None:
        torch.manual_seed(args.seed)
        self.model = open_clip.model.CLIP(**MODEL)
        accept_cut_text(self.model)
        decay = [p for p in self.model.parameters() if p.ndim > 1]
        rest = [p for p in self.model.parameters() if p.ndim <= 1]
        groups = [{"params": decay, "weight_decay": 0.1}, {"params": rest, "weight_decay": 0.0}]
        self.optimizer = torch.optim.AdamW(groups, lr=args.learning_rate, betas=(0.9, 0.98), fused=True)
        self.args, self.step, self.file = args, 0, run / "checkpoint.pt"
        self.tokenizer = open_clip.get_tokenizer(f"local-dir:{run / 'parts'}")
        self.mean = torch.tensor(OPENAI_DATASET_MEAN).view(3, 1, 1)
        self.std = torch.tensor(OPENAI_DATASET_STD).view(3, 1, 1)

    def resume(self) -> None:
        """Take up the last checkpoint, if there is one."""
        if self.file.is_file():
            state = torch.load(self.file, weights_only=True)
            self.model.load_state_dict(state["model"])
            self.optimizer.load_state_dict(state["optimizer"])
            self.step = state["step"]

    def save(self) -> None:
        """Write the checkpoint beside the old one, then put it in its place."""
        partial = self.file.with_suffix(".partial")
        state = {
            "model": self.model.state_dict(),
            "optimizer": self.optimizer.state_dict(),
            "step": self.step,
        }
        torch.save(state, partial)
        os.replace(partial, self.file)

    def learn(self, batch: Batch) -> float:
        """One optimisation step; the loss."""
        for group in self.optimizer.param_groups:
            group["lr"] = self.args.learning_rate * schedule(self.step, self.args.steps)
        loss = clip_loss(self.model, *self._tensors(batch))
        self.optimizer.zero_grad()
        loss.backward()
        nn.utils.clip_grad_norm_(self.model.parameters(), 1.0)
        self.optimizer.step()
        self.model.logit_scale.data.clamp_(0.0, MAX_SCALE)
        self.step += 1
        return float(loss.detach())

    def _tensors(self, batch: Batch) -> tuple[Tensor, Tensor]:
        pixels = torch.from_numpy(batch.pixels).permute(0, 3, 1, 2).float().div(255)
        tokens = cut_to_longest(self.tokenizer(batch.captions), "argmax", VOCABULARY_SIZE - 1)
        return (pixels - self.mean) / self.std, tokens


def clip_loss(model: nn.Module, pixels: Tensor, tokens: Tensor) -> Tensor:
    """Symmetric InfoNCE. pixels [B, 3, H, W], tokens [B, L]; the products of the towers run in bf16.

    The plain attention kernel is forced: on CPUs the fused one's backward pass took over half of the step.
    """
    with torch.autocast("cpu", dtype=torch.bfloat16), sdpa_kernel(SDPBackend.MATH):
        images, texts = model.encode_image(pixels), model.encode_text(tokens)
    images, texts = F.normalize(images.float(), dim=-1), F.normalize(texts.float(), dim=-1)
    logits = model.logit_scale.exp() * images @ texts.T
    pairs = torch.arange(len(logits))
    return (F.cross_entropy(logits, pairs) + F.cross_entropy(logits.T, pairs)) / 2


def schedule(step: int, steps: int) -> float:
    """Factor of the learning rate: linear warm-up over a twentieth of the run, then cosine to zero."""
    warmup = max(1, steps // 20)
    return min((step + 1) / warmup, 0.5 * (1 + math.cos(math.pi * step / steps)))


def batches(scenery: Scenery, args: argparse.Namespace, start: int) -> Iterator[Batch]:
    """The batches of steps start, start + 1, ..., drawn ahead by processes of their own."""
    with ProcessPoolExecutor(args.workers, mp_context=get_context("spawn")) as pool:
        waiting: deque[Future[Batch]] = deque()
        for step in range(start, args.steps):
            waiting.append(pool.submit(draw_batch, scenery, args.seed, step, args.batch_size, IMAGE_SIZE))
            if len(waiting) > 3:
                yield waiting.popleft().result()
        while waiting:
            yield waiting.popleft().result()


def run_folder(args: argparse.Namespace) -> Path:
    """Where this run keeps its state; other arguments that shape the result, other folder."""
    shaping = {
        k: str(v) for k, v in vars(args).items() if k not in ("out", "work", "export_every", "workers")
    }
    key = hashlib.sha256(json.dumps([shaping, MODEL], sort_keys=True).encode()).hexdigest()[:12]
    return args.work / key


def pretrain(args: argparse.Namespace) -> dict[str, float]:
    """Train (or go on training), export to `args.out`, and measure what was exported."""
    scenes = held_out_scenes(args.data / "captions.jsonl", HELD_OUT, args.seed)
    scenery = make_scenery(args.data, scenes)
    run = run_folder(args)
    _prepare(run, args, scenery)
    trainer = Trainer(args, run)
    trainer.resume()
    _train(trainer, scenery, args, run, scenes)
    export(trainer.model, run, args.out)
    return evaluate(load_encoder(args.out), scenes, args.seed)


def _prepare(run: Path, args: argparse.Namespace, scenery: Scenery) -> None:
    if (run / "parts").is_dir():
        return
    partial = run / "parts.partial"
    shutil.rmtree(partial, ignore_errors=True)
    partial.mkdir(parents=True)
    write_config(partial)
    length = MODEL["text_cfg"]["context_length"]
    write_tokenizer(partial, args.data, scenery, size=VOCABULARY_SIZE, context_length=length, seed=args.seed)
    os.replace(partial, run / "parts")


def _train(trainer: Trainer, scenery: Scenery, args: argparse.Namespace, run: Path, scenes: HeldOut) -> None:
    bar = tqdm(total=args.steps, initial=trainer.step, unit="step", mininterval=5, desc="pretrain")
    losses: deque[float] = deque(maxlen=20)
    for batch in batches(scenery, args, trainer.step):
        losses.append(trainer.learn(batch))
        bar.update()
        bar.set_postfix(loss=f"{np.mean(losses):.3f}", refresh=False)
        if trainer.step % args.checkpoint_every == 0:
            trainer.save()
        if args.export_every and trainer.step % args.export_every == 0:
            export(trainer.model, run, args.out)
            tqdm.write(
                f"step {trainer.step}: {json.dumps(evaluate(load_encoder(args.out), scenes, args.seed))}"
            )
    trainer.save()
    bar.close()


def parse_args(argv: list[str] | None = None) -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(
        description="Pretrain the picture-book base encoder and write it as an open_clip folder.",
        epilog="example: python scripts/pretrain_base.py --out data/base_encoder --steps 1000",
    )
    add: Any = parser.add_argument
    add("--out", type=Path, default=Path("data/base_encoder"), help="folder to write (default: %(default)s)")
    add(
        "--data",
        type=Path,
        default=Path("data"),
        help="folder with taxonomy and captions (default: %(default)s)",
    )
    add("--work", type=Path, default=Path("work/pretrain_base"), help="checkpoints (default: %(default)s)")
    add("--steps", type=int, default=1000, help="optimisation steps (default: %(default)s)")
    add("--batch-size", type=int, default=256, help="scenes a step (default: %(default)s)")
    add("--learning-rate", type=float, default=1.5e-3, help="highest rate (default: %(default)s)")
    add("--seed", type=int, default=2311, help="seed of weights, scenes and pictures (default: %(default)s)")
    add("--threads", type=int, default=1, help="torch threads; part of the result (default: %(default)s)")
    add("--workers", type=int, default=1, help="processes that draw (default: %(default)s)")
    add("--checkpoint-every", type=int, default=50, help="steps between checkpoints (default: %(default)s)")
    add(
        "--export-every",
        type=int,
        default=0,
        help="write and measure --out every so many steps (0: at the end)",
    )
    return parser.parse_args(argv)


def main() -> None:
    """Run; exit status 1 with one line for a fault of input or environment."""
    args = parse_args()
    torch.set_num_threads(args.threads)
    try:
        print(json.dumps(pretrain(args), indent=2))
    except SafeclipError as error:
        print(f"error: {error}", file=sys.stderr)
        raise SystemExit(1) from None


if __name__ == "__main__":
    main()
