"""Pictures are decoded several at a time, in portions that are kept once done: a killed import goes on.

The parent reads the source in order, worker processes decode, and what they made comes back in order: the
result is the same for any number of workers. A portion is named by the digest of all that decides it (names,
bytes, limits, code, libraries), so an edited picture or another limit never meets an old result.
"""

from __future__ import annotations

import hashlib
import multiprocessing
import os
import signal
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

from safeclip.errors import DataError
from safeclip.importing import items as items_module
from safeclip.importing import pictures as pictures_module
from safeclip.importing.items import Item, ItemFault
from safeclip.importing.pictures import Picture, accept
from safeclip.process import die_with_parent
from safeclip.scratch import Scratch, file_digest

PORTION_ITEMS, PORTION_BYTES = 64, 32_000_000  # a portion ends at whichever comes first
AHEAD = 2  # portions a worker that wait for it, or for their turn
Decoded = Picture | ItemFault
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
        return hashlib.sha256(told.encode("utf-8", "surrogatepass")).hexdigest()[:32]

    def decode(self, piece: str, sources: list[Source]) -> None:
        """Decode a portion and keep the result; in a worker."""
        kept, partial = self._file(piece), self._file(f".{piece}")
        rows = [self._row(name, data) for name, data in sources]
        pq.write_table(pa.Table.from_pylist(rows, _SCHEMA), partial, compression="none")
        partial.replace(kept)
        self.store.keep(piece, [kept])

    def read(self, piece: str) -> list[Decoded]:
        """A finished portion."""
        return [_decoded(row) for row in pq.read_table(self._file(piece), schema=_SCHEMA).to_pylist()]

    @property
    def store(self) -> Scratch:
        return Scratch("data import", self.scratch)

    def _file(self, piece: str) -> Path:
        return self.scratch / f"{piece}.parquet"

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
    pool = ProcessPoolExecutor(workers, context, initializer=_start_worker) if workers > 1 else _Here()
    try:
        yield pool
    finally:
        pool.shutdown(cancel_futures=True)


def _start_worker() -> None:
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the parent's to answer
    die_with_parent()
    parent = multiprocessing.parent_process()
    if parent is not None and not parent.is_alive():  # gone before it was asked
        os._exit(1)


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
    return Picture(**row | {"thumbnail": thumbnail, "notes": tuple(row["notes"])})


@cache
def _code() -> str:
    files = [__file__, items_module.__file__, pictures_module.__file__]
    libraries = [f"{name} {version(name)}" for name in ("pillow", "imagehash", "numpy", "scipy")]
    return " ".join([*(file_digest(Path(file)) for file in files), *libraries])
