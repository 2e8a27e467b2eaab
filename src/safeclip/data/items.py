"""What a reader yields: items with captions and a way to read the image, or the reason why not.

Also cleans caption text as people deliver it (byte order marks, old encodings, control characters, whole
paragraphs) and reads files without leaving their folder.
"""

from __future__ import annotations

import codecs
import os
import re
import unicodedata
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath, PureWindowsPath

MAX_CHARACTERS = 1000  # of a caption in captions.jsonl
MAX_BYTES = 64_000_000  # of one image file or archive member
_SENTENCE_END = re.compile(r"(?<=[.!?…。！？])\s+")
_MARKS = {
    codecs.BOM_UTF8: "utf-8-sig",
    codecs.BOM_UTF32_LE: "utf-32",
    codecs.BOM_UTF32_BE: "utf-32",
    codecs.BOM_UTF16_LE: "utf-16",
    codecs.BOM_UTF16_BE: "utf-16",
}


def decode(data: bytes) -> tuple[str, str | None]:
    """Return the text and, if it is not plain UTF-8, a note on how it was read.

    A byte order mark decides; without one UTF-8, else Windows-1252 (which holds the letters of latin-1).
    """
    for mark, encoding in _MARKS.items():
        if data.startswith(mark):
            try:
                return data.decode(encoding), None
            except UnicodeDecodeError:
                break
    try:
        return data.decode("utf-8"), None
    except UnicodeDecodeError:
        return data.decode("cp1252", errors="replace"), "not UTF-8, read as Windows-1252"


def clean(text: str) -> str:
    """Return `text` with composed letters and single spaces, without control and direction signs."""
    composed = unicodedata.normalize("NFC", text)
    spaced = "".join(" " if sign.isspace() else sign for sign in composed)
    kept = "".join(sign for sign in spaced if unicodedata.category(sign) not in ("Cc", "Cf", "Cs", "Co"))
    return " ".join(kept.split())


def fit_caption(text: str, max_words: int) -> tuple[str, str | None]:
    """Return a caption of at most `max_words` words, and a note if only its first sentences are left.

    `ItemFault` if nothing usable is left; it never holds the text.
    """
    caption = clean(text)
    if not any(sign.isalpha() for sign in caption):
        raise ItemFault("its caption has no words")
    if "\N{REPLACEMENT CHARACTER}" in caption:
        raise ItemFault("its caption cannot be decoded; save the file as UTF-8")
    if _fits(caption, max_words):
        return caption, None
    shorter = ""
    for sentence in _SENTENCE_END.split(caption):
        longer = f"{shorter} {sentence}".strip()
        if not _fits(longer, max_words):
            break
        shorter = longer
    if not shorter:
        words = len(caption.split())
        raise ItemFault(f"its caption is too long ({words} words without a full stop, at most {max_words})")
    return shorter, f"caption shortened to its first {len(shorter.split())} words (whole sentences)"


def _fits(caption: str, max_words: int) -> bool:
    return len(caption.split()) <= max_words and len(caption) <= MAX_CHARACTERS


class ItemFault(Exception):
    """Why one item cannot be used; the rest of the import goes on."""


@dataclass(frozen=True)
class Item:
    """One image with its captions, in the source's order.

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
    """Read the regular file `name` below `folder`; `ItemFault` for any way out of the folder."""
    parts = (*PurePosixPath(name).parts, *PureWindowsPath(name).parts)
    if not name or "\0" in name:
        raise ItemFault("has no usable file name")
    # a way out on any system
    if PurePosixPath(name).is_absolute() or PureWindowsPath(name).drive or ".." in parts:
        raise ItemFault("its path leaves the images' folder; use a path below it")
    path = _existing(folder, name)
    if not path.resolve().is_relative_to(folder.resolve()):
        raise ItemFault("is a link that leads out of the images' folder; copy the file itself")
    if not path.is_file():
        raise ItemFault("is not a regular file")
    try:
        with path.open("rb") as file:
            check_size(os.fstat(file.fileno()).st_size)
            return file.read(MAX_BYTES)
    except OSError as error:
        raise ItemFault(f"cannot be read ({error.strerror})") from None


def check_size(size: int) -> None:
    """Raise `ItemFault` for a file that is empty or larger than `MAX_BYTES`."""
    if size == 0:
        raise ItemFault("is empty (0 bytes)")
    if size > MAX_BYTES:
        raise ItemFault(f"is too large ({size:,} bytes, at most {MAX_BYTES:,})")


def _existing(folder: Path, name: str) -> Path:
    """Return the file as it is spelled on disk: letters may be composed there and not in the list."""
    spellings = dict.fromkeys((name, *(unicodedata.normalize(form, name) for form in ("NFC", "NFD"))))
    try:
        for spelling in spellings:
            if os.path.lexists(folder / spelling):
                return folder / spelling
    except (OSError, ValueError):
        raise ItemFault("has no usable file name") from None
    raise ItemFault("there is no such file")
