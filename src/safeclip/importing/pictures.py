"""Bytes that somebody calls a picture -> an RGB picture as the chain keeps it, or the reason why not.

Every picture is decoded and written again: metadata (places, names, thumbnails) stay behind, and so does
whatever else a file may carry. Lossless formats become PNG, the others JPEG.
"""

from __future__ import annotations

import hashlib
import io
import warnings
from dataclasses import dataclass

import imagehash
import numpy as np
from PIL import Image, ImageOps

from safeclip.importing.items import ItemFault, check_size

FORMATS = ("PNG", "JPEG", "WEBP", "GIF", "BMP", "TIFF")
LOSSLESS = ("PNG", "GIF", "BMP", "TIFF")
MAX_PIXELS = 50_000_000  # counted before any is decoded; validate_data has the same limit
THUMBNAIL_SIDE = 16
_EXTENSIONS = {"jpg": "JPEG", "jpeg": "JPEG", "jpe": "JPEG", "tif": "TIFF", "tiff": "TIFF"}


@dataclass(frozen=True)
class Picture:
    """An accepted picture. `thumbnail` is uint8 [768] (16 x 16 RGB), `phash` 64 bits of a perceptual hash,
    `pixels` the digest of the pixels as they were delivered (turned upright, before any scaling)."""

    data: bytes
    suffix: str
    thumbnail: np.ndarray
    phash: int
    pixels: str
    notes: tuple[str, ...]


def accept(data: bytes, name: str, *, min_side: int, max_side: int) -> Picture:
    """The picture in these bytes, upright, RGB, no side over `max_side`; `ItemFault` says what is wrong."""
    check_size(len(data))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # a doubtful size or tag is judged here, not printed
        original, kind, remarks = _decode(data, min_side)
    notes = [*remarks, *_extension_note(name, kind)]
    if len(original.getcolors(1) or ()) == 1:
        raise ItemFault("shows a single colour")
    picture = original
    if max(original.size) > max_side:
        picture = original.copy()
        picture.thumbnail((max_side, max_side), Image.Resampling.LANCZOS)
        notes.append(f"scaled from {original.width} x {original.height}")
    suffix, encoded = _encode(picture, kind)
    small = picture.resize((THUMBNAIL_SIDE, THUMBNAIL_SIDE), Image.Resampling.BOX)
    thumbnail = np.asarray(small, dtype=np.uint8).reshape(-1)
    return Picture(encoded, suffix, thumbnail, _phash(picture), _digest(original), tuple(notes))


def _decode(data: bytes, min_side: int) -> tuple[Image.Image, str, list[str]]:
    try:
        with Image.open(io.BytesIO(data), formats=FORMATS) as opened:
            width, height = opened.size
            if width * height > MAX_PIXELS:
                raise ItemFault(f"is too large ({width} x {height} pixels, at most {MAX_PIXELS:,})")
            if min(width, height) < min_side:
                raise ItemFault(f"is tiny ({width} x {height} pixels, sides of at least {min_side})")
            opened.load()
            kind = str(opened.format)
            upright = ImageOps.exif_transpose(opened)
            remarks = ["turned upright"] if upright.size != opened.size else []
            if opened.mode != "RGB":
                remarks.append(f"converted from {opened.mode}")
            return _rgb(upright), kind, remarks
    except ItemFault:
        raise
    except Image.DecompressionBombError:
        raise ItemFault(f"is too large (at most {MAX_PIXELS:,} pixels)") from None
    except Image.UnidentifiedImageError:
        raise ItemFault(f"is no picture of a known format ({', '.join(FORMATS)})") from None
    except Exception as error:  # Pillow's decoders raise a dozen unrelated types
        fault = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise ItemFault(f"cannot be decoded ({fault[:80]})") from None


def _rgb(image: Image.Image) -> Image.Image:
    """Any mode as RGB: 16 bits scaled to 8, transparency on white, palettes and CMYK resolved."""
    if image.mode.startswith("I"):
        levels = np.asarray(image).astype(np.int64)
        if levels.max(initial=0) > 255:
            levels = levels // 257  # 65535 -> 255
        image = Image.fromarray(np.clip(levels, 0, 255).astype(np.uint8))
    if image.mode == "F":
        raise ItemFault("holds floating-point pixels; save it with 8 or 16 bits")
    if image.mode in ("RGBA", "LA", "PA", "RGBa", "La") or "transparency" in image.info:
        layer = image.convert("RGBA")
        white = Image.new("RGBA", layer.size, "white")
        image = Image.alpha_composite(white, layer)
    return image.convert("RGB")


def _extension_note(name: str, kind: str) -> list[str]:
    stem, dot, extension = name.rpartition(".")
    said = _EXTENSIONS.get(extension.lower(), extension.upper())
    return [f"named .{extension} and is {kind}"] if stem and dot and said in FORMATS and said != kind else []


def _encode(picture: Image.Image, kind: str) -> tuple[str, bytes]:
    buffer = io.BytesIO()
    clean = Image.frombytes("RGB", picture.size, picture.tobytes())  # without the metadata
    if kind in LOSSLESS:
        clean.save(buffer, format="PNG", compress_level=6)
        return ".png", buffer.getvalue()
    clean.save(buffer, format="JPEG", quality=95, subsampling=0)
    return ".jpg", buffer.getvalue()


def _phash(picture: Image.Image) -> int:
    """64 bits of the perceptual hash of the `imagehash` package."""
    return int(str(imagehash.phash(picture)), 16)


def _digest(picture: Image.Image) -> str:
    return hashlib.sha256(str(picture.size).encode() + picture.tobytes()).hexdigest()
