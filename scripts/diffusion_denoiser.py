"""The picture-book diffusion model's denoiser: a UNet on 8 x 8 latents, told by CLIP's text what to draw.

v-prediction (arXiv 2202.00512) on a schedule that ends in pure noise (arXiv 2305.08891), losses weighted by
the clipped signal-to-noise ratio (arXiv 2303.09556, gamma 5), captions dropped now and then for
classifier-free guidance (arXiv 2207.12598).
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import torch
from diffusers import AutoencoderTiny, DDIMScheduler, UNet2DConditionModel
from diffusion_autoencoder import LATENT_CHANNELS
from diffusion_scenes import draw_scenes
from resumable import Resumable
from torch import Tensor
from torch.nn.attention import SDPBackend, sdpa_kernel
from transformers import CLIPTextModel, CLIPTokenizer

WIDTH, HEAD_WIDTH, NORM_GROUPS, LATENT_SIDE = 112, 28, 16, 8
BATCH_SIZE, LEARNING_RATE, DROPPED_CAPTIONS, GAMMA = 64, 2e-3, 0.1, 5.0


def new_scheduler() -> DDIMScheduler:
    """Noise levels of training and sampling."""
    return DDIMScheduler(
        beta_schedule="squaredcos_cap_v2",
        prediction_type="v_prediction",
        rescale_betas_zero_snr=True,
        timestep_spacing="trailing",
        clip_sample=False,
        steps_offset=1,
    )


def new_denoiser(text_width: int) -> UNet2DConditionModel:
    """Untrained: one resolution, attention to the caption in every block."""
    return UNet2DConditionModel(
        sample_size=LATENT_SIDE,
        in_channels=LATENT_CHANNELS,
        out_channels=LATENT_CHANNELS,
        block_out_channels=(WIDTH,),
        layers_per_block=1,
        down_block_types=("SimpleCrossAttnDownBlock2D",),
        mid_block_type="UNetMidBlock2DSimpleCrossAttn",
        up_block_types=("SimpleCrossAttnUpBlock2D",),
        attention_head_dim=HEAD_WIDTH,
        norm_num_groups=NORM_GROUPS,
        cross_attention_dim=text_width,
        time_embedding_dim=WIDTH,
        resnet_time_scale_shift="scale_shift",
    )


class DenoiserTraining:
    """The loss of one step: pictures to latents, noise, and what the UNet makes of it."""

    def __init__(
        self, autoencoder: AutoencoderTiny, text_encoder: CLIPTextModel, tokenizer: CLIPTokenizer, seed: int
    ) -> None:
        self.autoencoder, self.text_encoder, self.tokenizer = autoencoder, text_encoder, tokenizer
        self.scheduler, self.seed = new_scheduler(), seed
        self.model = new_denoiser(text_encoder.config.hidden_size)

    def loss(self, step: int) -> Tensor:
        scenes = draw_scenes(self.seed, step, "denoiser", BATCH_SIZE)
        generator = torch.Generator().manual_seed(self.seed + step)
        dropped = torch.rand(BATCH_SIZE, generator=generator) < DROPPED_CAPTIONS
        captions = ["" if drop else text for text, drop in zip(scenes.captions, dropped, strict=True)]
        times = torch.randint(self.scheduler.config.num_train_timesteps, (BATCH_SIZE,), generator=generator)
        # the plain attention kernel: on CPUs the fused one's backward pass took a third of a step
        with torch.autocast("cpu", dtype=torch.bfloat16), sdpa_kernel(SDPBackend.MATH):
            latents, states = self._inputs(scenes.pixels, captions)
            noise = torch.randn(latents.shape, generator=generator)
            noisy = self.scheduler.add_noise(latents, noise, times)
            predicted = self.model(noisy, times, states, return_dict=False)[0].float()
        error = (predicted - self.scheduler.get_velocity(latents, noise, times)).square().mean(dim=(1, 2, 3))
        return (error * self._weights(times)).mean()

    @torch.no_grad()
    def _inputs(self, pixels: Tensor, captions: Sequence[str]) -> tuple[Tensor, Tensor]:
        latents = self.autoencoder.encode(pixels).latents.float() * self.autoencoder.config.scaling_factor
        tokens = self.tokenizer(
            list(captions), padding="max_length", truncation=True, return_tensors="pt"
        ).input_ids
        return latents, self.text_encoder(tokens).last_hidden_state.float()

    def _weights(self, times: Tensor) -> Tensor:
        """min(SNR, gamma) / (SNR + 1): in units of the clean latents every noise level weighs alike."""
        signal = self.scheduler.alphas_cumprod[times]
        ratio = signal / (1 - signal)
        return ratio.clamp(min=1e-2, max=GAMMA) / (ratio + 1)


def train_denoiser(training: DenoiserTraining, run: Path, steps: int) -> UNet2DConditionModel:
    """Train, or go on training."""
    return Resumable(training.model, run / "denoiser.pt", steps=steps, learning_rate=LEARNING_RATE).run(
        training.loss
    )
