"""Scenes the picture-book diffusion model learns from: few things, large, drawn as photos.

A batch depends on (seed, step, purpose) alone, so a resumed run sees what an uninterrupted one would have.
"""

from __future__ import annotations

from dataclasses import dataclass
from zlib import crc32

import numpy as np
import torch
from torch import Tensor

from safeclip.picturebook.drawing import paint
from safeclip.picturebook.grammar import safe_scene, single_scene, unsafe_scene
from safeclip.picturebook.lexicon import find_entries

IMAGE_SIZE = 64
SINGLE_SHARE = 0.55


@dataclass(frozen=True)
class Scenes:
    """captions: B strings; pixels: [B, 3, 64, 64] in [-1, 1]; glyphs: the names drawn in each picture."""

    captions: list[str]
    pixels: Tensor
    glyphs: list[tuple[str, ...]]


def draw_scenes(seed: int, step: int, purpose: str, size: int) -> Scenes:
    """`size` scenes of one or two things each."""
    rng = np.random.default_rng((seed, step, crc32(purpose.encode())))
    captions = [write_caption(rng) for _ in range(size)]
    drawn = [paint(caption, "photo", int(rng.integers(2**31)), IMAGE_SIZE) for caption in captions]
    pixels = torch.from_numpy(np.stack([picture for picture, _ in drawn])).permute(0, 3, 1, 2)
    return Scenes(captions, pixels.float() / 127.5 - 1.0, [glyphs for _, glyphs in drawn])


def write_caption(rng: np.random.Generator) -> str:
    """A caption of one thing, or one of the grammar's, safe or unsafe, that shows two."""
    if rng.random() < SINGLE_SHARE:
        return single_scene(rng).caption
    while True:
        scene = safe_scene(rng) if rng.random() < 0.5 else unsafe_scene(rng)
        if len(find_entries(scene.caption)) == 2:
            return scene.caption
