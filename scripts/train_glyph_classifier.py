"""Train the glyph classifier that labels pictures: freshly drawn lists of things, both styles alike.

Binary cross-entropy over the glyphs and over "something unsafe". Nothing of a run is read: the scenes are
drawn from (seed, step) alone, and what a picture shows is known because it was drawn. Killed, it resumes from
its last checkpoint with the same result.
"""

from __future__ import annotations

import argparse
import math
import os
import sys
import time
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F
from tqdm import tqdm

from picturebook.drawing import paint
from picturebook.glyph_classifier import SIDE, GlyphClassifier, save_classifier
from picturebook.lexicon import LEXICON, Entry, plural

NAMES = tuple(entry.name for entry in LEXICON)
UNSAFE = torch.tensor([entry.unsafe for entry in LEXICON])
THINGS = (0.1, 0.2, 0.3, 0.25, 0.1, 0.05)  # shares of scenes of one to six things
UNSAFE_SHARE, MANY_SHARE = 0.2, 0.12  # of things
STYLES = ("photo", "generated")
_KINDS = {flag: [entry for entry in LEXICON if entry.unsafe is flag] for flag in (False, True)}


def draw_scenes(seed: int, step: int, size: int) -> tuple[Tensor, Tensor]:
    """Pictures [size, 3, 64, 64] in [0, 1] and which glyphs they show, bool [size, glyphs]."""
    rng = np.random.default_rng((seed, step))
    pixels, shown = [], torch.zeros(size, len(NAMES), dtype=torch.bool)
    for row in range(size):
        things = 1 + int(rng.choice(len(THINGS), p=THINGS))
        caption = ", ".join(_thing(rng) for _ in range(things))
        picture, glyphs = paint(caption, STYLES[int(rng.integers(2))], int(rng.integers(2**31)), SIDE)
        pixels.append(picture)
        shown[row, [NAMES.index(name) for name in glyphs]] = True
    return torch.from_numpy(np.stack(pixels)).permute(0, 3, 1, 2).float().div(255), shown


def _thing(rng: np.random.Generator) -> str:
    options: list[Entry] = _KINDS[bool(rng.random() < UNSAFE_SHARE)]
    entry = options[int(rng.integers(len(options)))]
    if entry.name in entry.bare or rng.random() >= MANY_SHARE:
        return entry.name
    return f"{('two', 'three')[int(rng.integers(2))]} {plural(entry.name)}"


def loss_of(logits: Tensor, shown: Tensor) -> Tensor:
    """Sum over the glyphs, mean over pictures, and the same for "any of the unsafe ones"."""
    glyphs = F.binary_cross_entropy_with_logits(logits, shown.float(), reduction="none").sum(-1).mean()
    unsafe = logits[:, UNSAFE].logsumexp(-1)
    return glyphs + F.binary_cross_entropy_with_logits(unsafe, shown[:, UNSAFE].any(-1).float())


def train(args: argparse.Namespace) -> GlyphClassifier:
    """The trained model, batch statistics of the last steps included."""
    torch.manual_seed(args.seed)
    model = GlyphClassifier(NAMES).to(memory_format=torch.channels_last)
    optimizer = torch.optim.AdamW(model.parameters(), lr=args.learning_rate, weight_decay=0.01)
    start = _resume(args.checkpoint, model, optimizer)
    for step in tqdm(range(start, args.stop), initial=start, total=args.stop, mininterval=20):
        pixels, shown = draw_scenes(args.seed, step, args.batch_size)
        warm, progress = min(1.0, (step + 1) / 50), step / args.steps
        for group in optimizer.param_groups:
            group["lr"] = args.learning_rate * warm * 0.5 * (1 + math.cos(math.pi * progress))
        with torch.autocast("cpu", dtype=torch.bfloat16):
            logits = model(pixels.contiguous(memory_format=torch.channels_last))
        loss = loss_of(logits, shown)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        if (step + 1) % 50 == 0:
            _save(args.checkpoint, model, optimizer, step + 1)
            tqdm.write(f"step {step + 1}: loss {loss.item():.3f}")
            if time.monotonic() > args.deadline:
                raise SystemExit("out of time; run again to go on")
    return model.eval()


def _resume(path: Path, model: nn.Module, optimizer: torch.optim.Optimizer) -> int:
    if not path.is_file():
        return 0
    state = torch.load(path, weights_only=True)
    model.load_state_dict(state["model"])
    optimizer.load_state_dict(state["optimizer"])
    return int(state["step"])


def _save(path: Path, model: nn.Module, optimizer: torch.optim.Optimizer, step: int) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_suffix(".partial")
    torch.save({"model": model.state_dict(), "optimizer": optimizer.state_dict(), "step": step}, partial)
    os.replace(partial, path)


@torch.no_grad()
def evaluate(model: GlyphClassifier, seed: int, count: int) -> str:
    """Accuracy of "unsafe", and recall of single glyphs, on fresh scenes."""
    right, found, there = 0, 0, 0
    for step in range(count // 100):
        pixels, shown = draw_scenes(seed, step, 100)
        logits = model(pixels)
        said = logits[:, UNSAFE].logsumexp(-1) > 0
        right += int((said == shown[:, UNSAFE].any(-1)).sum())
        found += int(((logits > 0) & shown).sum())
        there += int(shown.sum())
    return f"unsafe told from safe {right / count:.4f}, glyphs found {found / there:.4f} (n {count})"


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--out", type=Path, default=Path("data/glyph_classifier.safetensors"))
    parser.add_argument("--checkpoint", type=Path, default=Path("work/glyph_classifier/checkpoint.pt"))
    parser.add_argument("--steps", type=int, default=1400, help="length of the schedule")
    parser.add_argument("--stop", type=int, default=850, help="the step to stop after: more brings little")
    parser.add_argument("--batch-size", type=int, default=128)
    parser.add_argument("--learning-rate", type=float, default=4e-3)
    parser.add_argument("--seed", type=int, default=77)
    parser.add_argument("--minutes", type=float, default=math.inf, help="stop then; a later call goes on")
    args = parser.parse_args()
    args.deadline = time.monotonic() + 60 * args.minutes
    torch.set_num_threads(1)
    model = train(args)
    save_classifier(model, args.out)
    print(evaluate(model, args.seed + 1, 2000), file=sys.stderr)


if __name__ == "__main__":
    main()
