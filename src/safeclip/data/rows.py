"""Turn items into accepted rows with their images on disk, and remark on each refused or changed item."""

from __future__ import annotations

import hashlib
import json
import re
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Literal

import numpy as np

from safeclip.core.guard import Guard
from safeclip.data.images import Decoded
from safeclip.data.items import Item, ItemFault, fit_caption

Outcome = Literal["rejected", "suspect", "note"]

_NAMED = 5  # remarks of each kind that the command prints
IMAGES = "images"  # the folder of the accepted images


@dataclass(frozen=True)
class Remark:
    """`id` is the row's id in captions.jsonl, None if the item was rejected."""

    item: str
    outcome: Outcome
    reason: str
    id: str | None = None


def shown(name: str) -> str:
    """Return a name as it may be printed: whatever could steer a terminal is written as an escape."""
    return "".join(sign if sign.isprintable() else ascii(sign)[1:-1] for sign in name)[:200]


def report_lines(remarks: Sequence[Remark]) -> str:
    """Write remarks as JSON Lines, in the order of the source."""
    return "".join(json.dumps(asdict(remark), sort_keys=True) + "\n" for remark in remarks)


def summary_lines(remarks: Sequence[Remark]) -> list[str]:
    """Name some rejected and suspect items, and count the other remarks by kind."""
    lines = []
    for outcome in ("rejected", "suspect"):
        some = [remark for remark in remarks if remark.outcome == outcome]
        lines += [f"{outcome}: {remark.item}: {remark.reason}" for remark in some[:_NAMED]]
        if len(some) > _NAMED:
            lines.append(f"{outcome}: and {len(some) - _NAMED} more")
    notes = Counter(remark.reason.split(" (")[0] for remark in remarks if remark.outcome == "note")
    lines += [f"note: {times} x {reason}" for reason, times in sorted(notes.items())[:_NAMED]]
    return lines


@dataclass(frozen=True)
class Limits:
    """Bounds of an accepted item: words of its caption, sides of its image in pixels."""

    max_words: int
    min_side: int
    max_side: int


@dataclass(frozen=True)
class Row:
    """An accepted item; `image` is relative to the data folder, `thumbnail` uint8 [768]."""

    id: str
    item: str
    caption: str
    image: str
    sha256: str
    thumbnail: np.ndarray
    phash: int


@dataclass
class Collected:
    """All rows and remarks so far, and what later items must not repeat."""

    rows: list[Row] = field(default_factory=list)
    remarks: list[Remark] = field(default_factory=list)
    items: int = 0
    _ids: dict[str, str] = field(default_factory=dict)
    _pixels: dict[str, str] = field(default_factory=dict)
    _captions: set[str] = field(default_factory=set)

    def add(self, item: Item, decoded: Decoded, folder: Path, max_words: int, guard: Guard) -> None:
        """Accept one item, or remark why not."""
        self.items += 1
        name = shown(item.name)
        try:
            self._accept(item, decoded, name, folder, max_words, guard)
        except ItemFault as fault:
            self.remarks.append(Remark(name, "rejected", str(fault)))

    def _accept(
        self, item: Item, decoded: Decoded, name: str, folder: Path, max_words: int, guard: Guard
    ) -> None:
        if item.fault is not None:
            raise ItemFault(item.fault)
        row_id = make_id(item.key)
        if row_id in self._ids:
            raise ItemFault(f"repeats the item {self._ids[row_id]}")
        if isinstance(decoded, ItemFault):
            raise decoded
        if decoded.pixels in self._pixels:
            raise ItemFault(f"is the same image as {self._pixels[decoded.pixels]}")
        caption, note = self._caption(item, max_words, guard)
        image = f"{IMAGES}/{row_id}{decoded.suffix}"
        (folder / image).write_bytes(decoded.data)
        self._ids[row_id] = self._pixels[decoded.pixels] = name
        self._captions.add(caption.casefold())
        digest = hashlib.sha256(decoded.data).hexdigest()
        self.rows.append(Row(row_id, name, caption, image, digest, decoded.thumbnail, decoded.phash))
        remarks = [*item.notes, *decoded.notes, *([note] if note else [])]
        self.remarks += [Remark(name, "note", text, row_id) for text in remarks]

    def _caption(self, item: Item, max_words: int, guard: Guard) -> tuple[str, str | None]:
        """The first caption that can be used; if there is none, the fault of the first."""
        first: ItemFault | None = None
        for text in item.captions:
            try:
                caption, note = fit_caption(text, max_words)
                if guard.trips(caption):
                    raise ItemFault("its caption is refused by the content guard")
                if caption.casefold() in self._captions:
                    raise ItemFault("its caption is that of an earlier item")
                return caption, note
            except ItemFault as fault:
                first = first or fault
        raise first or ItemFault("has no caption")

    def drop(self, row: Row, reason: str, folder: Path) -> None:
        """Reject a row that was taken in."""
        (folder / row.image).unlink()
        self.rows.remove(row)
        self.remark(row, "rejected", reason)

    def remark(self, row: Row, outcome: Outcome, reason: str) -> None:
        """Remark on a row by its id, or without one if it is rejected."""
        self.remarks.append(Remark(row.item, outcome, reason, None if outcome == "rejected" else row.id))


def collect(items: Iterable[tuple[Item, Decoded]], folder: Path, max_words: int, guard: Guard) -> Collected:
    """Add all items; images are written below `folder`."""
    (folder / IMAGES).mkdir(parents=True)
    collected = Collected()
    for item, decoded in items:
        collected.add(item, decoded, folder, max_words, guard)
    return collected


def make_id(key: str) -> str:
    """An id that is a safe file name and stays the same wherever the source is imported again.

    COCO's ids are kept; other keys give their readable part and a digest of the whole.
    """
    if re.fullmatch(r"coco-[0-9]{12}", key):
        return key
    stem = key.replace("\\", "/").rpartition("/")[2].rpartition(".")
    readable = re.sub(r"[^a-z0-9]+", "-", (stem[0] or stem[2]).lower()).strip("-")[:40]
    digest = hashlib.sha256(key.encode("utf-8", "surrogatepass")).hexdigest()[:10]
    return f"{readable}-{digest}" if readable else digest
