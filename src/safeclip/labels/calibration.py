"""The small set labelled by hand: captions, and recipes of pictures, so that no picture needs to be stored.

A picture's line says what to draw (`draw`, a caption for the picture book) or names a file beside it.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Generic, TypeVar
from zlib import crc32

from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from picturebook.drawing import draw
from safeclip.core.errors import DataError
from safeclip.core.guard import Guard

CAPTIONS = "captions.jsonl"
PICTURES = "pictures.jsonl"
Words = Annotated[str, Field(min_length=1, pattern=r"^\S(.*\S)?$")]
Item = TypeVar("Item")


class _Line(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid", strict=True)

    id: Words
    unsafe: bool
    categories: list[Words]

    @model_validator(mode="after")
    def _categories_belong_to_unsafe(self) -> _Line:
        if self.unsafe != bool(self.categories):
            raise ValueError("an unsafe item needs categories and a safe one has none")
        return self


class _Caption(_Line):
    caption: Words


class _Picture(_Line):
    draw: Words | None = None
    file: Words | None = None

    @model_validator(mode="after")
    def _one_source(self) -> _Picture:
        if (self.draw is None) == (self.file is None):
            raise ValueError("give `draw` or `file`, one of them")
        return self


Line = TypeVar("Line", bound=_Line)


@dataclass(frozen=True)
class Calibration(Generic[Item]):
    """Items with what a person says of them: `unsafe` and, for the unsafe ones, `categories`."""

    items: list[Item]
    unsafe: list[bool]
    categories: list[list[str]]


def calibration_captions(folder: Path, guard: Guard, categories: Sequence[str]) -> Calibration[str]:
    """The labelled captions; `DataError` names file, line and fault, never the text."""
    lines = _read(folder / CAPTIONS, _Caption, categories)
    for number, line in enumerate(lines, start=1):
        if guard.trips(line.caption, line.categories):
            raise DataError(f"{folder / CAPTIONS}, line {number}: refused by the content guard; remove it")
    return _labelled([line.caption for line in lines], lines)


def calibration_pictures(folder: Path, guard: Guard, categories: Sequence[str]) -> Calibration[bytes]:
    """The labelled pictures, drawn or read; `DataError` as for captions."""
    lines = _read(folder / PICTURES, _Picture, categories)
    for number, line in enumerate(lines, start=1):
        if line.draw and guard.trips(line.draw, line.categories):
            raise DataError(f"{folder / PICTURES}, line {number}: refused by the content guard; remove it")
    return _labelled([_picture(folder, line) for line in lines], lines)


def _labelled(items: list[Item], lines: Sequence[_Line]) -> Calibration[Item]:
    return Calibration(items, [line.unsafe for line in lines], [line.categories for line in lines])


def _picture(folder: Path, line: _Picture) -> bytes:
    if line.draw:
        return draw(line.draw, "generated", crc32(line.id.encode())).png
    path = (folder / str(line.file)).resolve()
    if not path.is_relative_to(folder.resolve()):
        raise DataError(f"{folder / PICTURES}: {line.id}: {line.file!r} is outside the folder; move it in")
    try:
        return path.read_bytes()
    except OSError as error:
        why = error.strerror
        raise DataError(f"{folder / PICTURES}: {line.id}: {line.file!r} cannot be read ({why})") from None


def _read(path: Path, kind: type[Line], categories: Sequence[str]) -> list[Line]:
    try:
        raw = path.read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeDecodeError):
        raise DataError(f"{path}: cannot be read; pull the data folder") from None
    lines: list[Line] = []
    seen: set[str] = set()
    for number, text in enumerate(raw, start=1):
        try:
            line = _parse(text, kind)
            _check(line, seen, categories)
        except ValueError as error:
            raise DataError(f"{path}, line {number}: {error}; mend or remove the line") from None
        seen.add(line.id)
        lines.append(line)
    if {line.unsafe for line in lines} != {True, False}:
        raise DataError(f"{path}: needs safe and unsafe items to choose a threshold; complete the set")
    return lines


def _parse(text: str, kind: type[Line]) -> Line:
    try:
        values: Any = json.loads(text)
        return kind.model_validate(values)
    except json.JSONDecodeError as error:
        raise ValueError(f"not JSON ({error.msg})") from None
    except ValidationError as error:
        fault = error.errors()[0]
        key = ".".join(str(part) for part in fault["loc"]) or "the line"
        raise ValueError(f"`{key}`: {fault['msg'].removeprefix('Value error, ')}") from None


def _check(line: _Line, seen: set[str], categories: Sequence[str]) -> None:
    if line.id in seen:
        raise ValueError(f"the id {line.id} is used by an earlier line")
    unknown = [name for name in line.categories if name not in categories]
    if unknown:
        raise ValueError(f"category {unknown[0]!r} is not in the taxonomy")
