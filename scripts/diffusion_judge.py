"""Who says what a picture shows: a small convolutional network, trained on drawings with seeds of its own.

It shares nothing with the diffusion model (no weights, no scenes) and reads presence: the highest score of a
glyph over all places of the picture.
"""

from __future__ import annotations

from pathlib import Path

import torch
from diffusion_scenes import draw_scenes
from resumable import Resumable
from torch import Tensor, nn
from torch.nn import functional as F

from safeclip.picturebook.lexicon import LEXICON

NAMES = tuple(entry.name for entry in LEXICON)
BATCH_SIZE, LEARNING_RATE, BLUR_SHARE, NOISE = 64, 2e-3, 0.5, 0.05
SPECIFICITY, CALIBRATION = 0.99, 512


class GlyphJudge(nn.Module):
    """Pixels [B, 3, 64, 64] in [-1, 1] -> a logit per glyph of the lexicon [B, len(NAMES)]."""

    def __init__(self) -> None:
        super().__init__()
        layers: list[nn.Module] = []
        for inside, outside in ((3, 32), (32, 64), (64, 128)):
            layers += [nn.Conv2d(inside, outside, 3, 2, 1), nn.BatchNorm2d(outside), nn.ReLU()]
        layers += [nn.Conv2d(128, 128, 3, padding=1), nn.BatchNorm2d(128), nn.ReLU()]
        self.layers = nn.Sequential(*layers, nn.Conv2d(128, len(NAMES), 1))
        nn.init.constant_(self.layers[-1].bias, -5.0)  # nearly every glyph is absent

    def forward(self, pixels: Tensor) -> Tensor:
        return self.layers(pixels).amax(dim=(2, 3))


def presence(glyphs: list[tuple[str, ...]]) -> Tensor:
    """Which glyphs are drawn: [B, len(NAMES)] of 0 and 1."""
    return torch.tensor([[float(name in drawn) for name in NAMES] for drawn in glyphs])


def train_judge(run: Path, *, seed: int, steps: int) -> tuple[GlyphJudge, float]:
    """The judge, and the logit above which a glyph counts as found: one absent glyph in a hundred is."""
    torch.manual_seed(seed)
    judge = GlyphJudge()
    Resumable(judge, run / "judge.pt", steps=steps, learning_rate=LEARNING_RATE, decay=0.99).run(
        lambda step: _loss(judge, seed, step)
    )
    scenes = draw_scenes(seed, 0, "judge calibration", CALIBRATION, styles=("photo", "generated"))
    with torch.no_grad():
        absent = judge(scenes.pixels)[presence(scenes.glyphs) == 0]
    return judge, float(absent.quantile(SPECIFICITY))


def _loss(judge: GlyphJudge, seed: int, step: int) -> Tensor:
    scenes = draw_scenes(seed, step, "judge", BATCH_SIZE, most=3, styles=("photo", "generated"))
    generator = torch.Generator().manual_seed(seed + step)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        logits = judge(_disturb(scenes.pixels, generator)).float()
    return F.binary_cross_entropy_with_logits(logits, presence(scenes.glyphs), reduction="sum") / BATCH_SIZE


def _disturb(pixels: Tensor, generator: torch.Generator) -> Tensor:
    """Some pictures blurred, all a little noisy: a diffusion model's edges are not a drawing's."""
    soft = F.interpolate(F.avg_pool2d(pixels, 2), scale_factor=2, mode="bilinear")
    blurred = torch.rand((len(pixels), 1, 1, 1), generator=generator) < BLUR_SHARE
    return torch.where(blurred, soft, pixels) + NOISE * torch.randn(pixels.shape, generator=generator)
