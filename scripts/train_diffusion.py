"""Train the picture-book diffusion model and say how often its pictures show what was asked.

A latent diffusion model (arXiv 2112.10752) in diffusers' standard folder format, at most 8 MB in fp16, whose
text encoder is the picture-book base encoder, frozen and exported. Two trainings, each resumable: autoencoder
and denoiser. A seed gives the same weights however often it was killed, on one kind of machine. The judge is
the glyph classifier of the data set, which was trained apart from this, on drawings of its own.
"""

from __future__ import annotations

import argparse
import hashlib
import io
import json
import os
import shutil
import sys
from pathlib import Path
from typing import Any

import numpy as np
import torch
from diffusers import StableDiffusionPipeline
from diffusion_autoencoder import train_autoencoder
from diffusion_denoiser import DenoiserTraining, new_scheduler, train_denoiser
from diffusion_scenes import IMAGE_SIZE, draw_scenes
from PIL import Image
from transformers import CLIPTokenizer

from picturebook.glyph_classifier import GlyphClassifier, load_classifier
from picturebook.grammar import single_scene
from picturebook.thing_finder import least_logit
from safeclip.core.errors import ModelError, SafeclipError
from safeclip.encoders.export import to_text_encoder
from safeclip.encoders.load import load_encoder
from safeclip.settings import Diffusers
from safeclip.synthesis.diffusers_engine import DiffusersEngine
from safeclip.synthesis.images import Rendered, RenderRequest

SAMPLING_STEPS, GUIDANCE, LARGEST_MB = 20, 3.0, 8.0
CALIBRATION = 512


def train(args: argparse.Namespace) -> dict[str, float]:
    """Train (or go on), write `args.out`, measure what was written."""
    run = run_folder(args)
    run.mkdir(parents=True, exist_ok=True)
    autoencoder = train_autoencoder(run, seed=args.seed, steps=args.autoencoder_steps)
    encoder = load_encoder(args.base)
    text_encoder = to_text_encoder(encoder.model).requires_grad_(False)
    tokenizer = CLIPTokenizer.from_pretrained(args.base)
    torch.manual_seed(args.seed + 1)
    training = DenoiserTraining(autoencoder, text_encoder, tokenizer, args.seed)
    denoiser = train_denoiser(training, run, args.denoiser_steps)
    pipeline = StableDiffusionPipeline(
        vae=autoencoder,
        text_encoder=text_encoder,
        tokenizer=tokenizer,
        unet=denoiser,
        scheduler=new_scheduler(),
        safety_checker=None,
        feature_extractor=None,
        requires_safety_checker=False,
    )
    export(pipeline, args.out)
    return measure(args.out, load_classifier(args.judge), seed=args.seed + 2000, scenes=args.scenes)


def export(pipeline: StableDiffusionPipeline, out: Path) -> None:
    """Write the pipeline in fp16 to `out`, whole or not at all; `ModelError` if it is too large."""
    partial = out.with_name(f".{out.name}.partial")
    shutil.rmtree(partial, ignore_errors=True)
    pipeline.to(torch.float16).save_pretrained(partial)
    megabytes = sum(file.stat().st_size for file in partial.rglob("*") if file.is_file()) / 1e6
    if megabytes > LARGEST_MB:
        raise ModelError(f"{out}: {megabytes:.1f} MB, more than {LARGEST_MB}; choose a smaller width")
    shutil.rmtree(out, ignore_errors=True)
    os.replace(partial, out)


@torch.no_grad()
def found_from(judge: GlyphClassifier, seed: int) -> float:
    """The logit above which a glyph counts as found, from scenes as those that the model learns from."""
    scenes = draw_scenes(seed, "calibration", CALIBRATION)
    return least_logit(judge, judge(scenes.pixels.permute(0, 3, 1, 2) / 255), scenes.glyphs)


def measure(out: Path, judge: GlyphClassifier, *, seed: int, scenes: int) -> dict[str, float]:
    """Share of pictures in which the judge finds the one thing asked; `by_chance`: its neighbour's."""
    rng = np.random.default_rng(seed)
    asked = [single_scene(rng) for _ in range(scenes)]
    engine = DiffusersEngine(
        Diffusers(
            model=str(out),
            dtype="float32",
            scheduler="own",
            steps=SAMPLING_STEPS,
            guidance=GUIDANCE,
            batch_size=32,
            compile=False,
            long_captions="quarantine",
        ),
        IMAGE_SIZE,
        seed=seed,
    )
    pictures = list(engine.render([RenderRequest(f"{i:05d}", s.caption) for i, s in enumerate(asked)]))
    with torch.no_grad():
        logits = judge(torch.stack([_pixels(picture) for picture in pictures]))
    least = found_from(judge, seed)
    wanted = torch.tensor([judge.names.index(scene.names[0]) for scene in asked])
    rows = torch.arange(scenes)
    return {
        "n": float(scenes),
        "found": round(float((logits[rows, wanted] > least).float().mean()), 4),
        "top1": round(float((logits.argmax(dim=1) == wanted).float().mean()), 4),
        "by_chance": round(float((logits[rows, wanted.roll(1)] > least).float().mean()), 4),
    }


def _pixels(picture: Rendered) -> torch.Tensor:
    """[3, 64, 64] in [0, 1]; a rejected picture is black, in which nothing is found."""
    if picture.image is None:
        return torch.zeros(3, IMAGE_SIZE, IMAGE_SIZE)
    levels = np.array(Image.open(io.BytesIO(picture.image)).convert("RGB"))
    return torch.from_numpy(levels).permute(2, 0, 1).float() / 255


def run_folder(args: argparse.Namespace) -> Path:
    """Where this run keeps its state; other arguments that shape the result, other folder."""
    shaping = {
        k: str(v) for k, v in sorted(vars(args).items()) if k not in ("out", "work", "scenes", "judge")
    }
    return args.work / hashlib.sha256(json.dumps(shaping).encode()).hexdigest()[:12]


def parse_args(argv: list[str] | None = None) -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(
        description="Train the picture-book diffusion model and write it as a diffusers folder.",
        epilog="example: nice python scripts/train_diffusion.py --out data/diffusion",
    )
    add: Any = parser.add_argument
    add("--out", type=Path, default=Path("data/diffusion"), help="folder to write (default: %(default)s)")
    add("--base", type=Path, default=Path("data/base_encoder"), help="text encoder (default: %(default)s)")
    add("--work", type=Path, default=Path("work/train_diffusion"), help="checkpoints (default: %(default)s)")
    add("--autoencoder-steps", type=int, default=3600, help="default: %(default)s")
    add("--denoiser-steps", type=int, default=4000, help="default: %(default)s")
    add(
        "--judge",
        type=Path,
        default=Path("data/glyph_classifier.safetensors"),
        help="the classifier that says what a picture shows (default: %(default)s)",
    )
    add("--scenes", type=int, default=300, help="pictures that are judged (default: %(default)s)")
    add("--seed", type=int, default=2311, help="seed of weights, scenes and noise (default: %(default)s)")
    add("--threads", type=int, default=1, help="torch threads; part of the result (default: %(default)s)")
    return parser.parse_args(argv)


def main() -> None:
    """Run; exit status 1 with one line for a fault of input or environment."""
    args = parse_args()
    torch.set_num_threads(args.threads)
    try:
        print(json.dumps(train(args), indent=2))
    except SafeclipError as error:
        print(f"error: {error}", file=sys.stderr)
        raise SystemExit(1) from None


if __name__ == "__main__":
    main()
