"""A gallery index: a folder an operator mounts, made by one encoder and refused by any other.

index.json      format, digests of both encoders, number of items
served.npy      [N, D] float32, the served encoder's embeddings; read as a memory map
base.npy        [N, D] float32, the base towers'
items.jsonl     {"id", "kind": "image" or "text", "unsafe", "text"}, by row
thumbnails.bin  WebP files one behind the other; thumbnails.npy [N + 1] int64 says where each begins
"""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np

from safeclip.core.errors import DataError, ModelError

FORMAT = "safeclip-index-1"


@dataclass(frozen=True)
class IndexItem:
    """A row: `id` is the file's path in the indexed folder, `unsafe` the scorer's word on it."""

    id: str
    kind: str
    unsafe: bool
    text: str | None = None


@dataclass(frozen=True)
class IndexRow:
    """A row with what is stored of it: both embeddings [D] and a small WebP picture (empty for a text)."""

    item: IndexItem
    served: np.ndarray
    base: np.ndarray
    thumbnail: bytes = b""


@dataclass(frozen=True)
class Index:
    """An index that is open for reading."""

    served: np.ndarray
    base: np.ndarray
    described: dict[str, Any]
    _items: tuple[IndexItem, ...]
    _thumbnails: np.ndarray
    _offsets: np.ndarray

    @property
    def size(self) -> int:
        """Number of rows."""
        return len(self._items)

    def item(self, row: int) -> IndexItem:
        """The item of a row."""
        return self._items[row]

    def thumbnail(self, row: int) -> bytes:
        """WebP bytes, empty for a text."""
        return self._thumbnails[self._offsets[row] : self._offsets[row + 1]].tobytes()


def write_rows(folder: Path, rows: list[IndexRow]) -> None:
    """Write one complete folder of rows (without index.json)."""
    folder.mkdir(parents=True, exist_ok=True)
    np.save(folder / "served.npy", np.stack([row.served for row in rows]).astype(np.float32))
    np.save(folder / "base.npy", np.stack([row.base for row in rows]).astype(np.float32))
    lines = [json.dumps(asdict(row.item), sort_keys=True) for row in rows]
    (folder / "items.jsonl").write_text("\n".join(lines) + "\n", encoding="utf-8")
    (folder / "thumbnails.bin").write_bytes(b"".join(row.thumbnail for row in rows))
    np.save(folder / "thumbnails.npy", np.cumsum([0, *(len(row.thumbnail) for row in rows)]))


def join_rows(parts: list[Path], folder: Path, encoder_digest: str, base_digest: str) -> None:
    """One index out of folders of rows, in their order, block by block."""
    sizes = [np.load(part / "served.npy", mmap_mode="r").shape for part in parts]
    total, dimension = sum(size[0] for size in sizes), sizes[0][1]
    for name in ("served.npy", "base.npy"):
        whole = np.lib.format.open_memmap(folder / name, "w+", np.float32, (total, dimension))
        start = 0
        for part, size in zip(parts, sizes, strict=True):
            whole[start : start + size[0]] = np.load(part / name)
            start += size[0]
        whole.flush()
    offsets = [np.zeros(1, np.int64)]
    with (folder / "items.jsonl").open("wb") as items, (folder / "thumbnails.bin").open("wb") as thumbnails:
        for part in parts:
            items.write((part / "items.jsonl").read_bytes())
            thumbnails.write((part / "thumbnails.bin").read_bytes())
            offsets.append(np.load(part / "thumbnails.npy")[1:] + offsets[-1][-1])
    np.save(folder / "thumbnails.npy", np.concatenate(offsets))
    header = {"format": FORMAT, "encoder": encoder_digest, "base": base_digest, "items": total}
    header["dimension"] = dimension
    (folder / "index.json").write_text(json.dumps(header, indent=2, sort_keys=True) + "\n", encoding="utf-8")


def open_index(folder: Path, encoder_digest: str, base_digest: str) -> Index:
    """Open an index for an encoder.

    Raises:
        DataError: missing, not an index, or its files do not belong together.
        ModelError: made by another encoder; its vectors would be compared with others of no relation.
    """
    header = _header(folder)
    if (header.get("encoder"), header.get("base")) != (encoder_digest, base_digest):
        raise ModelError(f"{folder}: an index of another encoder; build it again with `safeclip index build`")
    try:
        served, base = (np.load(folder / name, mmap_mode="r") for name in ("served.npy", "base.npy"))
        offsets = np.load(folder / "thumbnails.npy")
        lines = (folder / "items.jsonl").read_text(encoding="utf-8").splitlines()
        items = tuple(IndexItem(**json.loads(line)) for line in lines)
        content = (folder / "thumbnails.bin").stat().st_size
        thumbnails = np.memmap(folder / "thumbnails.bin", mode="r") if content else np.zeros(0, np.uint8)
    except (OSError, ValueError, TypeError) as error:
        fault = str(error).splitlines()[0]
        raise DataError(f"{folder}: not a readable index ({fault}); build it again") from None
    shape = (header["items"], header["dimension"])
    if not (served.shape == base.shape == shape and len(items) == shape[0] == len(offsets) - 1):
        raise DataError(f"{folder}: its files hold different numbers of rows; build it again")
    if not len(items) or offsets[-1] != content:
        raise DataError(f"{folder}: empty or cut short; build it again")
    unsafe = sum(item.unsafe for item in items)
    return Index(served, base, {"items": len(items), "unsafe": unsafe}, items, thumbnails, offsets)


def _header(folder: Path) -> dict[str, Any]:
    try:
        header = json.loads((folder / "index.json").read_text(encoding="utf-8"))
    except (OSError, ValueError):
        raise DataError(f"{folder}: no index.json; make an index with `safeclip index build`") from None
    if not isinstance(header, dict) or header.get("format") != FORMAT:
        raise DataError(f"{folder}: not of the format {FORMAT}; build it again")
    return header
