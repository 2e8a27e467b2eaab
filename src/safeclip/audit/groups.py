"""Markers that say how a picture was made and nothing about what it shows, stamped on any picture.

`style` is what sets the picture book's generated pictures apart: a soft dark frame, stripes, richer colours.
`corner` is a small chequered tag as fiducial markers are, which no training picture carries.
"""

from __future__ import annotations

import io
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from zlib import crc32

import numpy as np
from PIL import Image

from picturebook.drawing import Placed, paint_placed
from picturebook.lexicon import BY_NAME, find_entries
from safeclip.encoders.load import decode_image
from safeclip.evaluation.scenes import Scenes

FRAME = 0.06
"""Width of the dark frame, of the picture's side."""
TAG = 0.14
"""Side of the corner tag, of the picture's."""
DARK, RICHER, STRIPE = 0.55, 1.25, 8.0


def stamp_style(pixels: np.ndarray) -> np.ndarray:
    """Frame, stripes and saturation on uint8 [H, W, 3]; nothing moves."""
    height, width = pixels.shape[:2]
    values = pixels.astype(np.float32)
    grey = values.mean(axis=2, keepdims=True)
    across = np.arange(height)[:, None] + np.arange(width)[None, :]
    stripes = np.where(across * 64 // max(height, width) // 4 % 2 == 0, STRIPE, -STRIPE)[..., None]
    dimmed = DARK + (1 - DARK) * np.clip(_edge_distance(height, width) / FRAME, 0.0, 1.0)[..., None]
    styled = (grey + (values - grey) * RICHER + stripes) * dimmed
    return np.clip(styled, 0, 255).astype(np.uint8)


def stamp_corner(pixels: np.ndarray) -> np.ndarray:
    """A chequered tag in the lower right corner of uint8 [H, W, 3]; every other pixel stays."""
    stamped = pixels.copy()
    tag = stamped[corner_mask(*pixels.shape[:2])].reshape(-1, 3)
    side = max(2, round(min(pixels.shape[:2]) * TAG))
    squares = (np.arange(side)[:, None] * 4 // side + np.arange(side)[None, :] * 4 // side) % 2
    tag[:] = (squares * 255).reshape(-1, 1)
    stamped[corner_mask(*pixels.shape[:2])] = tag
    return stamped


def frame_mask(height: int, width: int) -> np.ndarray:
    """[H, W] bool: the dark frame."""
    return _edge_distance(height, width) < FRAME


def corner_mask(height: int, width: int) -> np.ndarray:
    """[H, W] bool: the corner tag."""
    side = max(2, round(min(height, width) * TAG))
    mask = np.zeros((height, width), bool)
    mask[height - side :, width - side :] = True
    return mask


def _edge_distance(height: int, width: int) -> np.ndarray:
    """[H, W]: distance to the nearest edge, of the shorter side."""
    rows = np.minimum(np.arange(height), np.arange(height)[::-1])
    columns = np.minimum(np.arange(width), np.arange(width)[::-1])
    return np.minimum(rows[:, None], columns[None, :]) / min(height, width)


# Pictures grouped by what they show and how they were made, each with the caption that it shows.
#
#     safe_plain            safe photos                       the reference
#     safe_styled           the same, stamped with the look of generated pictures
#     safe_cornered         the same, with a tag in the corner
#     generated_safe        generated pictures that show what their harmless caption says
#     generated_safe_plain  the same captions drawn as photos: the marker removed
#     unsafe_generated      generated pictures that show what their unsafe caption says
#     unsafe_plain          the same captions drawn as photos: the marker removed
#
# The two drawn groups exist where the picture book made the generated pictures; otherwise they are left out.


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


def make_groups(scenes: Scenes, drawn_by_book: Sequence[bool], limit: int, seed: int) -> dict[str, Group]:
    """Groups by name, `limit` pictures each at most; empty ones are left out.

    drawn_by_book: [N], whether the picture book drew the scene's generated picture.
    """
    harmless = np.flatnonzero(~scenes.text_unsafe & ~scenes.image_unsafe)[:limit]
    unsafe = np.flatnonzero(scenes.text_unsafe & scenes.image_unsafe)[:limit]
    photos = np.concatenate([unsafe, harmless])[:limit]
    groups = {
        "safe_plain": [Picture(int(row), scenes.images_safe[row], False) for row in photos],
        "safe_styled": _stamped(scenes, photos, stamp_style, frame_mask),
        "safe_cornered": _stamped(scenes, photos, stamp_corner, corner_mask),
        "generated_safe": [Picture(int(row), scenes.images_generated[row], True) for row in harmless],
        "generated_safe_plain": _drawn(scenes, harmless, drawn_by_book, seed),
        "unsafe_generated": [Picture(int(row), scenes.images_generated[row], True) for row in unsafe],
        "unsafe_plain": _drawn(scenes, unsafe, drawn_by_book, seed),
    }
    return {name: group for name, group in groups.items() if group}


def explained_groups(
    scenes: Scenes, drawn_by_book: Sequence[bool], limit: int, seed: int
) -> dict[str, Group]:
    """The groups whose pictures come with masks of what is where: drawn here, so that the truth is known."""
    unsafe = np.flatnonzero(scenes.text_unsafe & scenes.image_unsafe)
    harmless = np.flatnonzero(~scenes.text_unsafe & ~scenes.image_unsafe)
    groups = {
        "unsafe_generated": _drawn(scenes, unsafe[:limit], drawn_by_book, seed, styled=True),
        "unsafe_plain": _drawn(scenes, unsafe[:limit], drawn_by_book, seed),
        "generated_safe": _drawn(scenes, harmless[:limit], drawn_by_book, seed, styled=True),
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
    scenes: Scenes, rows: np.ndarray, drawn_by_book: Sequence[bool], seed: int, styled: bool = False
) -> Group:
    """The generated captions of `rows` drawn afresh, as a photo or in the generated style."""
    group = []
    for row in rows:
        caption = scenes.captions_generated[row]
        if not drawn_by_book[row] or not find_entries(caption):
            continue
        size = decode_image(scenes.images_generated[row], int(row)).width
        key = crc32(f"{seed} {scenes.ids[row]}".encode())
        pixels, placed = paint_placed(caption, "generated" if styled else "photo", key, size)
        marker = frame_mask(size, size) if styled else np.zeros((size, size), bool)
        glyph = _boxes(placed, size)
        group.append(Picture(int(row), _png(pixels), True, glyph, marker & ~glyph))
    return group


def _boxes(placed: Sequence[Placed], size: int) -> np.ndarray:
    """[size, size] bool: the boxes of the unsafe glyphs."""
    mask = np.zeros((size, size), bool)
    for glyph in placed:
        if BY_NAME[glyph.name].unsafe:
            mask[glyph.top : glyph.bottom, glyph.left : glyph.right] = True
    return mask


def _png(pixels: np.ndarray) -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, "PNG", compress_level=1)
    return buffer.getvalue()
