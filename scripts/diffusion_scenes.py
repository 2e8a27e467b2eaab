"""Scenes the picture-book diffusion model learns from: one thing, or two, large, drawn as photos."""

from __future__ import annotations

from dataclasses import dataclass
from zlib import crc32

import numpy as np
import torch
from torch import Tensor

from picturebook.drawing import paint
from picturebook.grammar import safe_scene, single_scene, unsafe_scene
from picturebook.lexicon import find_entries

IMAGE_SIZE = 64
SINGLE_SHARE = 0.8


@dataclass(frozen=True)
class Scenes:
    """captions: N strings; pixels: uint8 [N, 64, 64, 3]; glyphs: the names drawn in each picture."""

    captions: list[str]
    pixels: Tensor
    glyphs: list[tuple[str, ...]]


def draw_scenes(seed: int, purpose: str, size: int, single_share: float = SINGLE_SHARE) -> Scenes:
    """`size` scenes of one or two things each; the same for the same (seed, purpose)."""
    rng = np.random.default_rng((seed, crc32(purpose.encode())))
    captions = [write_caption(rng, single_share) for _ in range(size)]
    drawn = [paint(caption, "photo", int(rng.integers(2**31)), IMAGE_SIZE) for caption in captions]
    pixels = torch.from_numpy(np.stack([picture for picture, _ in drawn]))
    return Scenes(captions, pixels, [glyphs for _, glyphs in drawn])


def to_pixels(pictures: Tensor) -> Tensor:
    """uint8 [B, 64, 64, 3] -> [B, 3, 64, 64] in [-1, 1], channels last in memory."""
    return pictures.permute(0, 3, 1, 2).float() / 127.5 - 1.0


def write_caption(rng: np.random.Generator, single_share: float) -> str:
    """A caption of one thing, or one of the grammar's, safe or unsafe, that shows two."""
    if rng.random() < single_share:
        return single_scene(rng).caption
    while True:
        scene = safe_scene(rng) if rng.random() < 0.5 else unsafe_scene(rng)
        if len(find_entries(scene.caption)) == 2:
            return scene.caption
