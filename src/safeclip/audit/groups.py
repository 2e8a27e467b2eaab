"""Pictures grouped by what they show and how they were made, each with the caption that it shows.

    safe_plain            safe photos                       the reference
    safe_styled           the same, stamped with the look of generated pictures
    safe_cornered         the same, with a tag in the corner
    generated_safe        generated pictures that show what their harmless caption says
    generated_safe_plain  the same captions drawn as photos: the marker removed
    unsafe_generated      generated pictures that show what their unsafe caption says
    unsafe_plain          the same captions drawn as photos: the marker removed

The two drawn groups exist where the picture book made the generated pictures; otherwise they are left out.
"""

from __future__ import annotations

import io
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from zlib import crc32

import numpy as np
from PIL import Image

from safeclip.audit.marker import corner_mask, frame_mask, stamp_corner, stamp_style
from safeclip.encoders.load import decode_image
from safeclip.evaluation.scenes import Scenes
from safeclip.picturebook.drawing import Placed, paint_placed
from safeclip.picturebook.lexicon import BY_NAME, find_entries

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
