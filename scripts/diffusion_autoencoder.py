"""The autoencoder of the picture-book diffusion model: 64 x 64 pixels to 8 x 8 latents of 16 channels.

Diffusion then runs on 64 positions, a hundredth of the work in pixels. Noise on the latents while training
makes the decoder forgive what the denoiser gets slightly wrong. Most layers stand at low resolution, where
they cost little and where glyphs are remembered; an error of its own for the differences of neighbouring
pixels keeps outlines. Half-way the encoder stands still: the denoiser can learn its latents while the decoder
goes on.
"""

from __future__ import annotations

from pathlib import Path

import torch
from diffusers import AutoencoderTiny
from diffusion_scenes import Scenes, draw_scenes, to_pixels
from resumable import Resumable
from torch import Tensor

LATENT_CHANNELS, LATENT_NOISE, LATENT_WEIGHT, WIDTH = 16, 0.1, 1e-2, 32
SCENES, BATCH_SIZE, LEARNING_RATE, ENCODER_STEPS = 24_000, 16, 0.02, 1900


def new_autoencoder() -> AutoencoderTiny:
    """Untrained: three halvings, as many channels throughout."""
    return AutoencoderTiny(
        encoder_block_out_channels=(WIDTH,) * 4,
        decoder_block_out_channels=(WIDTH,) * 4,
        num_encoder_blocks=(0, 0, 2, 2),
        num_decoder_blocks=(4, 3, 2, 0),
        latent_channels=LATENT_CHANNELS,
    )


def train_autoencoder(run: Path, *, seed: int, steps: int) -> AutoencoderTiny:
    """Train, or go on training; its scaling factor brings the latents to unit variance."""
    torch.manual_seed(seed)
    model = new_autoencoder()
    scenes = draw_scenes(seed, "autoencoder", SCENES)
    Resumable(model, run / "autoencoder.pt", steps=steps, learning_rate=LEARNING_RATE, decay=0.99).run(
        lambda step: _loss(model, scenes, seed + step, fixed=step >= ENCODER_STEPS)
    )
    latents = model.encode(to_pixels(scenes.pixels[:256])).latents
    model.register_to_config(scaling_factor=round(1.0 / float(latents.std()), 4))
    return model


def _loss(model: AutoencoderTiny, scenes: Scenes, seed: int, *, fixed: bool) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    rows = torch.randint(len(scenes.pixels), (BATCH_SIZE,), generator=generator)
    pixels = to_pixels(scenes.pixels[rows])
    with torch.autocast("cpu", dtype=torch.bfloat16):
        with torch.set_grad_enabled(not fixed):
            latents = model.encode(pixels).latents.float()
        noise = torch.randn(latents.shape, generator=generator) * LATENT_NOISE
        rebuilt = model.decode(latents + noise).sample
    error = rebuilt.float() - pixels
    outlines = error.diff(dim=2).abs().mean() + error.diff(dim=3).abs().mean()
    spread = latents.mean().square() + (latents.std() - 1).square()
    return error.abs().mean() + error.square().mean() + outlines + LATENT_WEIGHT * spread
