"""The picture-book diffusion model's denoiser: a UNet on 8 x 8 latents, told by CLIP's text what to draw.

v-prediction (arXiv 2202.00512) on a schedule that ends in pure noise (arXiv 2305.08891), captions dropped now
and then for classifier-free guidance (arXiv 2207.12598). The text enters twice: pooled, beside the time, into
every block, and token by token through attention at 4 x 4. Latents and text states are computed once. What a
noisy latent is pulled to is not the one drawing it came from but the mean of the drawings of the same thing
that it may have come from (stable targets, arXiv 2302.00670): the same optimum, found in fewer steps.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
import torch
from diffusers import AutoencoderTiny, DDIMScheduler, UNet2DConditionModel
from diffusion_autoencoder import LATENT_CHANNELS
from diffusion_scenes import draw_scenes, to_pixels
from resumable import Resumable
from torch import Tensor
from torch.nn.attention import SDPBackend, sdpa_kernel
from transformers import CLIPTextModel, CLIPTokenizer

WIDTHS, HEAD_WIDTH, NORM_GROUPS, TIME_WIDTH, LATENT_SIDE = (64, 104), 26, 8, 128, 8
SCENES, SINGLE_SHARE, BATCH_SIZE, LEARNING_RATE, DROPPED_CAPTIONS, PEERS = 12_000, 1.0, 48, 0.02, 0.1, 31


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
    """Untrained: 8 x 8 and 4 x 4 positions, attention to the caption between the way down and the way up."""
    return UNet2DConditionModel(
        sample_size=LATENT_SIDE,
        in_channels=LATENT_CHANNELS,
        out_channels=LATENT_CHANNELS,
        block_out_channels=WIDTHS,
        layers_per_block=1,
        down_block_types=("DownBlock2D", "DownBlock2D"),
        mid_block_type="UNetMidBlock2DSimpleCrossAttn",
        up_block_types=("UpBlock2D", "UpBlock2D"),
        attention_head_dim=HEAD_WIDTH,
        norm_num_groups=NORM_GROUPS,
        cross_attention_dim=text_width,
        time_embedding_dim=TIME_WIDTH,
        addition_embed_type="text",
        addition_embed_type_num_heads=4,
        resnet_time_scale_shift="scale_shift",
    )


class DenoiserTraining:
    """The loss of one step: latents, noise, and what the UNet makes of it.

    latents: [N, 16, 8, 8], unit variance; states: bf16 [M, 40, width], those of no caption first; captions:
    for each of the N latents the row of its states; peers: [N, K], rows of latents of the same thing.
    """

    def __init__(
        self, autoencoder: AutoencoderTiny, text_encoder: CLIPTextModel, tokenizer: CLIPTokenizer, seed: int
    ) -> None:
        self.scheduler, self.seed = new_scheduler(), seed
        self.model = new_denoiser(text_encoder.config.hidden_size)
        scenes = draw_scenes(seed, "denoiser", SCENES, SINGLE_SHARE)
        texts = ["", *sorted(set(scenes.captions))]
        self.states = encode_texts(text_encoder, tokenizer, texts)
        rows = {text: row for row, text in enumerate(texts)}
        self.captions = torch.tensor([rows[caption] for caption in scenes.captions])
        self.latents = encode_pictures(autoencoder, scenes.pixels)
        self.peers = rows_of_same(scenes.glyphs, PEERS, seed)

    def loss(self, step: int) -> Tensor:
        generator = torch.Generator().manual_seed(self.seed + step)
        rows = torch.randint(len(self.latents), (BATCH_SIZE,), generator=generator)
        told = torch.rand(BATCH_SIZE, generator=generator) >= DROPPED_CAPTIONS
        times = self._times(generator)
        clean = self.latents[rows]
        noisy = self.scheduler.add_noise(clean, torch.randn(clean.shape, generator=generator), times)
        mean = torch.where(told[:, None, None, None], self.mean_of_peers(noisy, rows, times), clean)
        # the plain attention kernel: on CPUs the fused one's backward pass took a third of a step
        with torch.autocast("cpu", dtype=torch.bfloat16), sdpa_kernel(SDPBackend.MATH):
            predicted = self.model(
                noisy.to(memory_format=torch.channels_last),
                times,
                self.states[self.captions[rows] * told],
                return_dict=False,
            )[0].float()
        return (predicted - self.velocity(noisy, mean, times)).square().mean()

    def mean_of_peers(self, noisy: Tensor, rows: Tensor, times: Tensor) -> Tensor:
        """E[clean | noisy] over drawings of the same thing, its own among them, as the paper weighs them."""
        signal, noise = self._levels(times, 3)
        peers = self.latents[torch.cat([rows[:, None], self.peers[rows]], dim=1)].flatten(2)  # [B, K, 1024]
        distance = (noisy.flatten(1)[:, None] - signal * peers).square().sum(dim=2)
        weights = (-distance / (2 * noise[..., 0].square())).softmax(dim=1)
        return torch.einsum("bk,bkd->bd", weights, peers).view_as(noisy)

    def velocity(self, noisy: Tensor, clean: Tensor, times: Tensor) -> Tensor:
        """v = signal * noise - noise level * clean, the noise being what `noisy` holds beside `clean`."""
        signal, noise = self._levels(times, 4)
        return signal * (noisy - signal * clean) / noise - noise * clean

    def _levels(self, times: Tensor, dimensions: int) -> tuple[Tensor, Tensor]:
        """Factors of the clean latent and of the noise, [B, 1, ...]."""
        kept = self.scheduler.alphas_cumprod[times].view(-1, *[1] * (dimensions - 1))
        return kept.sqrt(), (1 - kept).sqrt()

    def _times(self, generator: torch.Generator) -> Tensor:
        """More of the noisy ones, where the text decides; the decoder forgives noise at the other end."""
        levels = self.scheduler.config.num_train_timesteps
        return (levels * torch.rand(BATCH_SIZE, generator=generator).sqrt()).long()


def rows_of_same(glyphs: Sequence[tuple[str, ...]], count: int, seed: int) -> Tensor:
    """For each of N drawings the rows of `count` of the same things, with replacement: [N, count]."""
    members: dict[tuple[str, ...], list[int]] = {}
    for row, names in enumerate(glyphs):
        members.setdefault(names, []).append(row)
    rng = np.random.default_rng(seed)
    peers = {names: rng.choice(rows, count) for names, rows in sorted(members.items())}
    return torch.from_numpy(np.stack([peers[names] for names in glyphs]))


@torch.no_grad()
def encode_pictures(autoencoder: AutoencoderTiny, pictures: Tensor) -> Tensor:
    """uint8 [N, 64, 64, 3] -> [N, 16, 8, 8], scaled to unit variance."""
    with torch.autocast("cpu", dtype=torch.bfloat16):
        parts = [autoencoder.encode(to_pixels(part)).latents.float() for part in pictures.split(256)]
    return torch.cat(parts) * autoencoder.config.scaling_factor


@torch.no_grad()
def encode_texts(text_encoder: CLIPTextModel, tokenizer: CLIPTokenizer, texts: Sequence[str]) -> Tensor:
    """The states of every token, padded as a pipeline pads: bf16 [N, 40, width]."""

    def parts() -> Iterator[Tensor]:
        for start in range(0, len(texts), 256):
            tokens = tokenizer(
                list(texts[start : start + 256]), padding="max_length", truncation=True, return_tensors="pt"
            ).input_ids
            yield text_encoder(tokens).last_hidden_state.bfloat16()

    return torch.cat(list(parts()))


def train_denoiser(training: DenoiserTraining, run: Path, steps: int) -> UNet2DConditionModel:
    """Train, or go on training."""
    return Resumable(
        training.model,
        run / "denoiser.pt",
        steps=steps,
        learning_rate=LEARNING_RATE,
        decay=0.995,
        falling=0.2,
    ).run(training.loss)
