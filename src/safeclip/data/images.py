"""Decode whatever is delivered as an image to the RGB image that the chain keeps, or say why not.

Every image is decoded and written again: metadata (places, names, thumbnails) stay behind, and so does
whatever else a file may carry. Lossless formats become PNG, the others JPEG.
"""

from __future__ import annotations

import hashlib
import io
import multiprocessing
import warnings
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Executor, Future, ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from functools import cache
from importlib.metadata import version
from itertools import chain, islice
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from PIL import Image, ImageOps

from safeclip.core.checkpoints import Scratch
from safeclip.core.errors import DataError
from safeclip.core.files import sha256
from safeclip.core.processes import start_worker
from safeclip.data import items as items_module
from safeclip.data.items import Item, ItemFault, check_size
from safeclip.validation import near_duplicates
from safeclip.validation.near_duplicates import perceptual_hash, thumbnail_vector

FORMATS = ("PNG", "JPEG", "WEBP", "GIF", "BMP", "TIFF")
LOSSLESS = ("PNG", "GIF", "BMP", "TIFF")
MAX_PIXELS = 50_000_000  # counted before any is decoded; validate_data has the same limit
_EXTENSIONS = {"jpg": "JPEG", "jpeg": "JPEG", "jpe": "JPEG", "tif": "TIFF", "tiff": "TIFF"}


@dataclass(frozen=True)
class AcceptedImage:
    """An image of the data set.

    `thumbnail` is uint8 [768] (16 x 16 RGB), `phash` 64 bits of a perceptual hash, `pixels` the digest
    of the pixels as they were delivered (turned upright, before any scaling).
    """

    data: bytes
    suffix: str
    thumbnail: np.ndarray
    phash: int
    pixels: str
    notes: tuple[str, ...]


def accept(data: bytes, name: str, *, min_side: int, max_side: int) -> AcceptedImage:
    """Decode an image upright, in RGB, with no side over `max_side`. Raises `ItemFault`."""
    check_size(len(data))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # a doubtful size or tag is judged here, not printed
        original, kind, remarks = _decode(data, min_side)
    notes = [*remarks, *_extension_note(name, kind)]
    if len(original.getcolors(1) or ()) == 1:
        raise ItemFault("shows a single colour")
    image = original
    if max(original.size) > max_side:
        image = original.copy()
        image.thumbnail((max_side, max_side), Image.Resampling.LANCZOS)
        notes.append(f"scaled from {original.width} x {original.height}")
    suffix, encoded = _encode(image, kind)
    return AcceptedImage(
        data=encoded,
        suffix=suffix,
        thumbnail=thumbnail_vector(image),
        phash=perceptual_hash(image),
        pixels=hashlib.sha256(str(original.size).encode() + original.tobytes()).hexdigest(),
        notes=tuple(notes),
    )


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
        raise ItemFault(f"is no image of a known format ({', '.join(FORMATS)})") from None
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
    named = _EXTENSIONS.get(extension.lower(), extension.upper())
    misleading = stem and dot and named in FORMATS and named != kind
    return [f"named .{extension} and is {kind}"] if misleading else []


def _encode(image: Image.Image, kind: str) -> tuple[str, bytes]:
    buffer = io.BytesIO()
    clean = Image.frombytes("RGB", image.size, image.tobytes())  # without the metadata
    if kind in LOSSLESS:
        clean.save(buffer, format="PNG", compress_level=6)
        return ".png", buffer.getvalue()
    clean.save(buffer, format="JPEG", quality=95, subsampling=0)
    return ".jpg", buffer.getvalue()


# Pictures are decoded several at a time, in portions that are kept once done: a killed import goes on.
#
# The parent reads the source in order, worker processes decode, and what they made comes back in order: the
# result is the same for any number of workers. A portion is named by the digest of all that decides it
# (names, bytes, limits, code, libraries), so an edited picture or another limit never meets an old result.


PORTION_ITEMS, PORTION_BYTES = 64, 32_000_000  # a portion ends at whichever comes first
AHEAD = 2  # portions a worker that wait for it, or for their turn
Decoded = AcceptedImage | ItemFault
Source = tuple[str, bytes | str]
"""An item's name, and its bytes or why there are none."""
_SCHEMA = pa.schema(
    {
        "data": pa.binary(),
        "suffix": pa.string(),
        "thumbnail": pa.binary(),
        "phash": pa.uint64(),
        "pixels": pa.string(),
        "notes": pa.list_(pa.string()),
        "fault": pa.string(),
    }
)


@dataclass(frozen=True)
class Decoder:
    """How to decode: sides in pixels, and where what is finished is kept."""

    min_side: int
    max_side: int
    scratch: Path

    def piece(self, sources: list[Source]) -> str:
        """The name of a portion's result."""
        told = f"{self.min_side} {self.max_side} {_code()}"
        for name, data in sources:
            told += f"\0{name}\0{data if isinstance(data, str) else hashlib.sha256(data).hexdigest()}"
        return f"{hashlib.sha256(told.encode('utf-8', 'surrogatepass')).hexdigest()[:32]}.parquet"

    def decode(self, piece: str, sources: list[Source]) -> None:
        """Decode a portion and keep the result; in a worker."""
        rows = [self._row(name, data) for name, data in sources]
        sink = pa.BufferOutputStream()
        pq.write_table(pa.Table.from_pylist(rows, _SCHEMA), sink, compression="none")
        self.store.write(piece, sink.getvalue().to_pybytes())

    def read(self, piece: str) -> list[Decoded]:
        """A finished portion."""
        table = pq.read_table(self.store.folder / piece, schema=_SCHEMA)
        return [_decoded(row) for row in table.to_pylist()]

    @property
    def store(self) -> Scratch:
        return Scratch("data import", self.scratch)

    def _row(self, name: str, data: bytes | str) -> dict[str, object]:
        try:
            if isinstance(data, str):
                raise ItemFault(data)
            picture = accept(data, name, min_side=self.min_side, max_side=self.max_side)
        except ItemFault as fault:
            return {"fault": str(fault).encode("utf-8", "backslashreplace").decode()}
        return asdict(picture) | {"thumbnail": picture.thumbnail.tobytes()}


def decode_all(items: Iterable[Item], decoder: Decoder, workers: int) -> Iterator[tuple[Item, Decoded]]:
    """Each item with its picture or its fault, in order; `DataError` if a worker dies."""
    decoder.scratch.mkdir(parents=True, exist_ok=True)
    under_way: deque[tuple[list[Item], str, Future[None] | None]] = deque()
    portions = _portions(items)
    first = list(islice(portions, 2))  # a single portion is not worth starting a process for
    with _pool(workers if len(first) > 1 else 1) as pool:
        try:
            for portion, sources in chain(first, portions):
                piece = decoder.piece(sources)
                todo = None if decoder.store.has(piece) else pool.submit(decoder.decode, piece, sources)
                under_way.append((portion, piece, todo))
                if len(under_way) > AHEAD * workers:
                    yield from _finished(decoder, *under_way.popleft())
            while under_way:
                yield from _finished(decoder, *under_way.popleft())
        except BrokenProcessPool:
            raise DataError(
                "data import: a worker died (out of memory?); lower `compute.workers` and run again, "
                "finished pictures are kept"
            ) from None


def _finished(
    decoder: Decoder, portion: list[Item], piece: str, todo: Future[None] | None
) -> Iterator[tuple[Item, Decoded]]:
    if todo is not None:
        todo.result()
    yield from zip(portion, decoder.read(piece), strict=True)


def _portions(items: Iterable[Item]) -> Iterator[tuple[list[Item], list[Source]]]:
    portion, sources, size = list[Item](), list[Source](), 0
    for item in items:
        data = _read(item)
        portion.append(item)
        sources.append((item.name, data))
        size += len(data)
        if len(portion) == PORTION_ITEMS or size >= PORTION_BYTES:
            yield portion, sources
            portion, sources, size = [], [], 0
    if portion:
        yield portion, sources


def _read(item: Item) -> bytes | str:
    try:
        return item.fault or item.read()
    except ItemFault as fault:
        return str(fault)


@contextmanager
def _pool(workers: int) -> Iterator[Executor]:
    """Processes that end with this one, also when it is killed; for one worker this process itself."""
    context = multiprocessing.get_context("spawn")  # a fork would copy the encoder's threads in mid-flight
    pool = ProcessPoolExecutor(workers, context, initializer=start_worker) if workers > 1 else _Here()
    try:
        yield pool
    finally:
        pool.shutdown(cancel_futures=True)


class _Here(Executor):
    """Does at once what it is given."""

    def submit(self, call: Callable[..., Any], /, *args: Any, **kwargs: Any) -> Future[Any]:
        done: Future[Any] = Future()
        done.set_result(call(*args, **kwargs))
        return done


def _decoded(row: dict[str, Any]) -> Decoded:
    fault = row.pop("fault")
    if fault is not None:
        return ItemFault(fault)
    thumbnail = np.frombuffer(row["thumbnail"], dtype=np.uint8)
    return AcceptedImage(**row | {"thumbnail": thumbnail, "notes": tuple(row["notes"])})


@cache
def _code() -> str:
    files = [__file__, items_module.__file__, near_duplicates.__file__]
    libraries = [f"{name} {version(name)}" for name in ("pillow", "imagehash", "numpy", "scipy")]
    return " ".join([*(sha256(Path(file)) for file in files), *libraries])
