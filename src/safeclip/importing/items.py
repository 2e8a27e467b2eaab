"""What a source yields: items with a name, captions and a way to read the picture, or the reason why not."""

from __future__ import annotations

import os
import unicodedata
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath, PureWindowsPath

MAX_BYTES = 64_000_000  # of one picture file or archive member


class ItemFault(Exception):
    """Why one item cannot be used; the rest of the import goes on."""


@dataclass(frozen=True)
class Item:
    """One picture with its captions, in the source's order.

    `name` is what reports call it. `key` decides its id, and with it its split. `fault` says why the source
    has nothing usable here; then `read` is never called. `notes` are remarks that do not matter to the row.
    """

    name: str
    key: str
    captions: Sequence[str] = ()
    read: Callable[[], bytes] = field(default=lambda: b"")
    fault: str | None = None
    notes: tuple[str, ...] = ()


def read_below(folder: Path, name: str) -> bytes:
    """The bytes of the regular file `name` below `folder`; `ItemFault` for any way out of the folder."""
    _check_name(name)
    path = _existing(folder, name)
    if not path.resolve().is_relative_to(folder.resolve()):
        raise ItemFault("is a link that leads out of the pictures' folder; copy the file itself")
    if not path.is_file():
        raise ItemFault("is not a regular file")
    try:
        with path.open("rb") as file:
            check_size(os.fstat(file.fileno()).st_size)
            return file.read(MAX_BYTES)
    except OSError as error:
        raise ItemFault(f"cannot be read ({error.strerror})") from None


def check_size(size: int) -> None:
    """`ItemFault` for a file that is empty or larger than `MAX_BYTES`."""
    if size == 0:
        raise ItemFault("is empty (0 bytes)")
    if size > MAX_BYTES:
        raise ItemFault(f"is too large ({size:,} bytes, at most {MAX_BYTES:,})")


def _check_name(name: str) -> None:
    """Refuse names that could leave the folder, on any system."""
    parts = (*PurePosixPath(name).parts, *PureWindowsPath(name).parts)
    if not name or "\0" in name:
        raise ItemFault("has no usable file name")
    if PurePosixPath(name).is_absolute() or PureWindowsPath(name).drive or ".." in parts:
        raise ItemFault("its path leaves the pictures' folder; use a path below it")


def _existing(folder: Path, name: str) -> Path:
    """The file as it is spelled on disk: the same letters may be composed there and not in the list."""
    spellings = dict.fromkeys((name, *(unicodedata.normalize(form, name) for form in ("NFC", "NFD"))))
    try:
        for spelling in spellings:
            if os.path.lexists(folder / spelling):
                return folder / spelling
    except (OSError, ValueError):
        raise ItemFault("has no usable file name") from None
    raise ItemFault("there is no such file")
