"""A list of file and caption, as JSON Lines, CSV or TSV. A line that is no entry is reported, no more."""

from __future__ import annotations

import csv
import json
from collections.abc import Iterator, Mapping
from functools import partial
from pathlib import Path
from typing import Any

from safeclip.errors import DataError
from safeclip.importing.items import Item, read_below
from safeclip.importing.words import decode

FILE_KEYS = ("file", "file_name", "filename", "filepath", "image", "image_path", "path")
CAPTION_KEYS = ("caption", "captions", "text", "title", "description")


def jsonl_items(path: Path, pictures: Path) -> Iterator[Item]:
    """{"file": ..., "caption": ...} a line (a list of captions is one picture's); other keys are ignored."""
    text, note = _text(path)
    for number, line in enumerate(text.split("\n"), start=1):
        if line.strip():
            yield _item(f"{path.name}:{number}", _parse(line), pictures, note)


def table_items(path: Path, pictures: Path) -> Iterator[Item]:
    """Rows of CSV or TSV; the header names the columns, or there are two: file and caption."""
    text, note = _text(path)
    lines = text.splitlines(keepends=True)
    rows = csv.reader(lines, delimiter=_delimiter(path, lines[0] if lines else ""))
    columns: tuple[int, int] | None = None
    try:
        for row in rows:
            where = f"{path.name}:{rows.line_num}"
            if columns is None:
                columns = _columns(path, row)
                if columns is not None:
                    continue
                columns = (0, 1)
            if any(cell.strip() for cell in row):
                yield _item(where, _entry(row, columns), pictures, note)
    except csv.Error as error:
        raise DataError(f"{path}:{rows.line_num}: not CSV ({error}); mend the line") from None


def _text(path: Path) -> tuple[str, str | None]:
    try:
        return decode(path.read_bytes())
    except OSError as error:
        raise DataError(f"{path}: cannot be read ({error.strerror}); check the name") from None


def _item(where: str, entry: Mapping[str, Any] | None, pictures: Path, note: str | None) -> Item:
    name = _first(entry, FILE_KEYS)
    found = _first(entry, CAPTION_KEYS)
    captions = [found] if isinstance(found, str) else found
    if not isinstance(name, str) or not name:
        return Item(where, where, fault="names no file; give `file` and `caption`")
    if not isinstance(captions, list) or not all(isinstance(text, str) for text in captions):
        return Item(name, name, fault="has no caption")
    notes = (note,) if note else ()
    return Item(name, name, captions, partial(read_below, pictures, name), None, notes)


def _parse(line: str) -> Mapping[str, Any] | None:
    try:
        entry = json.loads(line)
    except (ValueError, RecursionError):
        return None
    return entry if isinstance(entry, dict) else None


def _first(entry: Mapping[str, Any] | None, keys: tuple[str, ...]) -> Any:
    return next((entry[key] for key in keys if key in entry), None) if entry else None


def _entry(row: list[str], columns: tuple[int, int]) -> dict[str, Any]:
    keys = zip(("file", "caption"), columns, strict=True)
    return {key: row[at].strip() for key, at in keys if at < len(row) and row[at].strip()}


def _columns(path: Path, header: list[str]) -> tuple[int, int] | None:
    """Where file and caption stand, by the header; None if the first row is no header."""
    names = [name.strip().lower() for name in header]
    files = [at for at, name in enumerate(names) if name in FILE_KEYS]
    captions = [at for at, name in enumerate(names) if name in CAPTION_KEYS]
    if files and captions:
        return files[0], captions[0]
    if len(header) == 2 and not files and not captions:
        return None
    raise DataError(f"{path}: no columns `file` and `caption` in its header; name them so")


def _delimiter(path: Path, first_line: str) -> str:
    if path.suffix == ".tsv":
        return "\t"
    return max(",;\t", key=first_line.count)
