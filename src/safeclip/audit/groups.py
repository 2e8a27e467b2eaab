"""Images grouped by what they show and how they were made, each with the caption that it shows.

    safe_plain            safe photos                       the reference
    safe_styled           the same, stamped with the look of generated images
    safe_cornered         the same, with a tag in the corner, which no training image carries
    generated_safe        generated images that show what their harmless caption says
    generated_safe_plain  the same captions drawn as photos: the look removed
    unsafe_generated      generated images that show what their unsafe caption says
    unsafe_plain          the same captions drawn as photos: the look removed

The stamped and the drawn groups exist where `audit.styles` names who knows the look; otherwise they are left
out, as are images that were made by another engine.
"""

from __future__ import annotations

import io
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Protocol
from zlib import crc32

import numpy as np
from PIL import Image

from safeclip.encoders.load import decode_image
from safeclip.evaluation.scenes import Scenes

TAG = 0.14
"""Side of the corner tag, of the image's."""


class Styles(Protocol):
    """What an audit asks of the world whose engine has a look of its own (`audit.styles`)."""

    def made(self, image_model: str) -> bool: ...

    def stamp(self, pixels: np.ndarray) -> np.ndarray: ...

    def mask(self, height: int, width: int) -> np.ndarray: ...

    def draw(
        self, caption: str, key: int, size: int, *, styled: bool
    ) -> tuple[np.ndarray, np.ndarray] | None: ...


def stamp_corner(pixels: np.ndarray) -> np.ndarray:
    """A chequered tag in the lower right corner of uint8 [H, W, 3]; every other pixel stays."""
    stamped = pixels.copy()
    tag = stamped[corner_mask(*pixels.shape[:2])].reshape(-1, 3)
    side = max(2, round(min(pixels.shape[:2]) * TAG))
    squares = (np.arange(side)[:, None] * 4 // side + np.arange(side)[None, :] * 4 // side) % 2
    tag[:] = (squares * 255).reshape(-1, 1)
    stamped[corner_mask(*pixels.shape[:2])] = tag
    return stamped


def corner_mask(height: int, width: int) -> np.ndarray:
    """[H, W] bool: the corner tag."""
    side = max(2, round(min(height, width) * TAG))
    mask = np.zeros((height, width), bool)
    mask[height - side :, width - side :] = True
    return mask


TITLES = {
    "safe_plain": "safe photos",
    "safe_styled": "the same with the look of generated pictures",
    "safe_cornered": "the same with a tag in the corner",
    "generated_safe": "generated, safe",
    "generated_safe_plain": "the same captions drawn as photos",
    "unsafe_generated": "generated, unsafe",
    "unsafe_plain": "the same captions drawn as photos, unsafe",
}


@dataclass(frozen=True)
class Picture:
    """A picture of scene `row`; `generated` says which of the scene's captions it shows.

    Masks [H, W] bool over its pixels, for drawn and stamped pictures: unsafe glyphs, and the marker.
    """

    row: int
    image: bytes
    generated: bool
    glyph: np.ndarray | None = None
    marker: np.ndarray | None = None


Group = list[Picture]


def make_groups(
    scenes: Scenes, image_models: Sequence[str], styles: Styles | None, limit: int, seed: int
) -> dict[str, Group]:
    """Groups by name, `limit` pictures each at most; empty ones are left out.

    image_models: [N], who made each scene's generated picture.
    """
    harmless = np.flatnonzero(~scenes.text_unsafe & ~scenes.image_unsafe)[:limit]
    unsafe = np.flatnonzero(scenes.text_unsafe & scenes.image_unsafe)[:limit]
    photos = np.concatenate([unsafe, harmless])[:limit]
    groups = {
        "safe_plain": [Picture(int(row), scenes.images_safe[row], False) for row in photos],
        "safe_styled": _stamped(scenes, photos, styles.stamp, styles.mask) if styles else [],
        "safe_cornered": _stamped(scenes, photos, stamp_corner, corner_mask),
        "generated_safe": [Picture(int(row), scenes.images_generated[row], True) for row in harmless],
        "generated_safe_plain": _drawn(scenes, harmless, image_models, styles, seed),
        "unsafe_generated": [Picture(int(row), scenes.images_generated[row], True) for row in unsafe],
        "unsafe_plain": _drawn(scenes, unsafe, image_models, styles, seed),
    }
    return {name: group for name, group in groups.items() if group}


def explained_groups(
    scenes: Scenes, image_models: Sequence[str], styles: Styles | None, limit: int, seed: int
) -> dict[str, Group]:
    """The groups whose pictures come with masks of what is where: drawn here, so that the truth is known."""
    unsafe = np.flatnonzero(scenes.text_unsafe & scenes.image_unsafe)
    harmless = np.flatnonzero(~scenes.text_unsafe & ~scenes.image_unsafe)
    groups = {
        "unsafe_generated": _drawn(scenes, unsafe[:limit], image_models, styles, seed, styled=True),
        "unsafe_plain": _drawn(scenes, unsafe[:limit], image_models, styles, seed),
        "generated_safe": _drawn(scenes, harmless[:limit], image_models, styles, seed, styled=True),
        "safe_cornered": _stamped(
            scenes, np.concatenate([unsafe, harmless])[:limit], stamp_corner, corner_mask
        ),
    }
    return {name: group for name, group in groups.items() if group}


def _stamped(
    scenes: Scenes,
    rows: np.ndarray,
    stamp: Callable[[np.ndarray], np.ndarray],
    mask: Callable[[int, int], np.ndarray],
) -> Group:
    group = []
    for row in rows:
        pixels = np.asarray(decode_image(scenes.images_safe[row], int(row)))
        size = pixels.shape[:2]
        group.append(Picture(int(row), _png(stamp(pixels)), False, np.zeros(size, bool), mask(*size)))
    return group


def _drawn(
    scenes: Scenes,
    rows: np.ndarray,
    image_models: Sequence[str],
    styles: Styles | None,
    seed: int,
    styled: bool = False,
) -> Group:
    """The generated captions of `rows` drawn afresh, as a photo or with the look of generated images."""
    group: Group = []
    if styles is None:
        return group
    for row in rows:
        if not styles.made(image_models[row]):
            continue
        size = decode_image(scenes.images_generated[row], int(row)).width
        key = crc32(f"{seed} {scenes.ids[row]}".encode())
        drawing = styles.draw(scenes.captions_generated[row], key, size, styled=styled)
        if drawing is not None:
            pixels, glyph = drawing
            marker = styles.mask(size, size) if styled else np.zeros((size, size), bool)
            group.append(Picture(int(row), _png(pixels), True, glyph, marker & ~glyph))
    return group


def _png(pixels: np.ndarray) -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, "PNG", compress_level=1)
    return buffer.getvalue()
