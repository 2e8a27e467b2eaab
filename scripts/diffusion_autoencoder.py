"""The autoencoder of the picture-book diffusion model: 64 x 64 pixels to 8 x 8 latents of 16 channels.

Diffusion then runs on 64 positions, a hundredth of the work in pixels. Noise on the latents while training
makes the decoder forgive what the denoiser gets slightly wrong.
"""

from __future__ import annotations

from pathlib import Path

import torch
from diffusers import AutoencoderTiny
from diffusion_scenes import draw_scenes
from resumable import Resumable
from torch import Tensor
from torch.nn import functional as F

LATENT_CHANNELS, LATENT_NOISE, LATENT_WEIGHT = 16, 0.1, 1e-3
PICTURES, CROPS, CROP_SIDE, LEARNING_RATE = 12, 3, 32, 3e-3


def new_autoencoder() -> AutoencoderTiny:
    """Untrained: three halvings, 32 channels throughout."""
    return AutoencoderTiny(
        encoder_block_out_channels=(32, 32, 32, 32),
        decoder_block_out_channels=(32, 32, 32, 32),
        num_encoder_blocks=(0, 1, 1, 1),
        num_decoder_blocks=(2, 2, 1, 1),
        latent_channels=LATENT_CHANNELS,
    )


def train_autoencoder(run: Path, *, seed: int, steps: int) -> AutoencoderTiny:
    """Train, or go on training; its scaling factor brings the latents to unit variance."""
    torch.manual_seed(seed)
    model = new_autoencoder()
    Resumable(model, run / "autoencoder.pt", steps=steps, learning_rate=LEARNING_RATE, decay=0.99).run(
        lambda step: _loss(model, seed, step)
    )
    pixels = draw_scenes(seed, 0, "scaling", 256).pixels
    factor = 1.0 / float(model.encode(pixels).latents.std())
    model.register_to_config(scaling_factor=round(factor, 4))
    return model


def _loss(model: AutoencoderTiny, seed: int, step: int) -> Tensor:
    generator = torch.Generator().manual_seed(seed + step)
    pixels = _crops(draw_scenes(seed, step, "autoencoder", PICTURES).pixels, generator)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        latents = model.encode(pixels).latents.float()
        noise = torch.randn(latents.shape, generator=generator) * LATENT_NOISE * latents.detach().std()
        rebuilt = model.decode(latents + noise).sample
    error = rebuilt.float() - pixels
    return (
        error.abs().mean() + error.square().mean() + LATENT_WEIGHT * F.relu(latents.abs() - 1).square().mean()
    )


def _crops(pixels: Tensor, generator: torch.Generator) -> Tensor:
    """Windows of a quarter of the picture: a convolution learns the same from them for less."""
    corners = torch.randint(pixels.shape[-1] - CROP_SIDE + 1, (len(pixels) * CROPS, 2), generator=generator)
    return torch.stack(
        [
            pixels[index // CROPS, :, top : top + CROP_SIDE, left : left + CROP_SIDE]
            for index, (top, left) in enumerate(corners.tolist())
        ]
    )
