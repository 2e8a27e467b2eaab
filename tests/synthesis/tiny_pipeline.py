"""A Stable Diffusion pipeline of random weights, small enough for a test, in the standard folder format."""

from __future__ import annotations

from pathlib import Path

import torch
from diffusers import AutoencoderKL, DDIMScheduler, StableDiffusionPipeline, UNet2DConditionModel
from transformers import AutoTokenizer, CLIPTextConfig, CLIPTextModel

BASE = Path("data/base_encoder").resolve()


def save_tiny_pipeline(folder: Path, text_encoder: CLIPTextModel | None = None) -> Path:
    """Pictures of 16 px and more; captions of at most 40 tokens, read with the base encoder's tokenizer.

    `text_encoder`: random and small if None.
    """
    torch.manual_seed(5)
    tokenizer = AutoTokenizer.from_pretrained(BASE)
    text = CLIPTextConfig(
        vocab_size=len(tokenizer), hidden_size=16, intermediate_size=32, num_hidden_layers=1,
        num_attention_heads=2, max_position_embeddings=40,
        bos_token_id=3998, eos_token_id=3999, pad_token_id=0,
    )  # fmt: skip
    text_encoder = text_encoder or CLIPTextModel(text)
    unet = UNet2DConditionModel(
        sample_size=8, block_out_channels=(16, 16), layers_per_block=1,
        cross_attention_dim=text_encoder.config.hidden_size,
        down_block_types=("DownBlock2D", "CrossAttnDownBlock2D"), norm_num_groups=4, attention_head_dim=2,
        up_block_types=("CrossAttnUpBlock2D", "UpBlock2D"),
    )  # fmt: skip
    vae = AutoencoderKL(
        block_out_channels=(8, 8), norm_num_groups=2, latent_channels=4,
        down_block_types=("DownEncoderBlock2D",) * 2, up_block_types=("UpDecoderBlock2D",) * 2,
    )  # fmt: skip
    StableDiffusionPipeline(
        vae=vae, text_encoder=text_encoder, tokenizer=tokenizer, unet=unet, scheduler=DDIMScheduler(),
        safety_checker=None, feature_extractor=None, requires_safety_checker=False,
    ).save_pretrained(folder)  # fmt: skip
    return folder
