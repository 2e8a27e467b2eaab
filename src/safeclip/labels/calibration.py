"""The small set labelled by hand, and the thresholds that are chosen on it.

`calibration/` of the data folder holds captions.jsonl and pictures.jsonl. A line of an image names a file
beside it, or says what to draw, so that no image needs to be stored.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Generic, TypeVar

import numpy as np
from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator
from sklearn.linear_model import LogisticRegression

from safeclip.core.errors import DataError
from safeclip.core.guard import Guard

CAPTIONS = "captions.jsonl"
IMAGES = "pictures.jsonl"
DECISION = 0.5
"""The threshold on the common scale that `centre` puts every labeller's scores on."""

DrawItem = Callable[[str, str], bytes]
"""Draws a calibration image from what it shows and its id: PNG or JPEG bytes."""

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


class _CaptionLine(_Line):
    caption: Words


class _ImageLine(_Line):
    draw: Words | None = None
    file: Words | None = None

    @model_validator(mode="after")
    def _one_source(self) -> _ImageLine:
        if (self.draw is None) == (self.file is None):
            raise ValueError("give `draw` or `file`, one of them")
        return self


Line = TypeVar("Line", bound=_Line)


@dataclass(frozen=True)
class Calibration(Generic[Item]):
    """Items with their labels by hand: `unsafe` and, for the unsafe ones, `categories`."""

    items: list[Item]
    unsafe: list[bool]
    categories: list[list[str]]


def calibration_captions(folder: Path, guard: Guard, categories: Sequence[str]) -> Calibration[str]:
    """Read the labelled captions.

    Raises:
        DataError: names file, line and fault, never the text.
    """
    lines = _read(folder / CAPTIONS, _CaptionLine, categories)
    _refuse_what_guard_trips(folder / CAPTIONS, [line.caption for line in lines], lines, guard)
    return _with_labels([line.caption for line in lines], lines)


def calibration_images(
    folder: Path, guard: Guard, categories: Sequence[str], draw: DrawItem | None
) -> Calibration[bytes]:
    """Read or draw the labelled images, as PNG or JPEG bytes; `DataError` as for captions.

    draw: draws the items that say what to draw (`label_safety.draw_calibration`).
    """
    lines = _read(folder / IMAGES, _ImageLine, categories)
    _refuse_what_guard_trips(folder / IMAGES, [line.draw or "" for line in lines], lines, guard)
    return _with_labels([_load_image(folder, line, draw) for line in lines], lines)


def _with_labels(items: list[Item], lines: Sequence[_Line]) -> Calibration[Item]:
    return Calibration(items, [line.unsafe for line in lines], [line.categories for line in lines])


def _load_image(folder: Path, line: _ImageLine, draw: DrawItem | None) -> bytes:
    if line.draw and draw is None:
        raise DataError(
            f"{folder / IMAGES}: {line.id}: says what to draw, and nothing draws it; "
            "give a `file`, or name a part in `label_safety.draw_calibration`"
        )
    if line.draw and draw is not None:
        return draw(line.draw, line.id)
    path = (folder / str(line.file)).resolve()
    if not path.is_relative_to(folder.resolve()):
        raise DataError(f"{folder / IMAGES}: {line.id}: {line.file!r} is outside the folder; move it in")
    try:
        return path.read_bytes()
    except OSError as error:
        raise DataError(
            f"{folder / IMAGES}: {line.id}: {line.file!r} cannot be read ({error.strerror}); restore it"
        ) from None


def _refuse_what_guard_trips(path: Path, texts: Sequence[str], lines: Sequence[_Line], guard: Guard) -> None:
    for number, (text, line) in enumerate(zip(texts, lines, strict=True), start=1):
        if text and guard.trips(text, line.categories):
            raise DataError(f"{path}, line {number}: refused by the content guard; remove it")


def _read(path: Path, kind: type[Line], categories: Sequence[str]) -> list[Line]:
    """Parse and check every line; ids must be unique, categories known, both labels present."""
    try:
        texts = path.read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeDecodeError):
        raise DataError(f"{path}: cannot be read; pull the data folder") from None
    lines: list[Line] = []
    ids: set[str] = set()
    for number, text in enumerate(texts, start=1):
        try:
            line = _parse(text, kind)
            if line.id in ids:
                raise ValueError(f"the id {line.id} is used by an earlier line")
            if unknown := [name for name in line.categories if name not in categories]:
                raise ValueError(f"category {unknown[0]!r} is not in the taxonomy")
        except ValueError as error:
            raise DataError(f"{path}, line {number}: {error}; correct or remove the line") from None
        ids.add(line.id)
        lines.append(line)
    if {line.unsafe for line in lines} != {True, False}:
        raise DataError(f"{path}: needs safe and unsafe items to choose a threshold; complete the set")
    return lines


def _parse(text: str, kind: type[Line]) -> Line:
    """Parse one line of JSON; a ValueError names the key at fault and never holds its value."""
    try:
        values: Any = json.loads(text)
        return kind.model_validate(values)
    except json.JSONDecodeError as error:
        raise ValueError(f"not JSON ({error.msg})") from None
    except ValidationError as error:
        fault = error.errors()[0]
        key = ".".join(str(part) for part in fault["loc"]) or "the line"
        raise ValueError(f"`{key}`: {fault['msg'].removeprefix('Value error, ')}") from None


def choose_threshold(scores: np.ndarray, unsafe: Sequence[bool], *, recall: float) -> float:
    """Choose where safe and unsafe are equally likely, or lower to find `recall` of the unsafe items.

    Equally likely by a sigmoid fitted to all scores [N] with smoothed targets (Platt, 1999), so that a
    handful of items does not fix the threshold by itself.

    Raises:
        DataError: the scores cannot tell the two kinds apart, or one kind is missing.
    """
    is_unsafe, scores = np.asarray(unsafe, bool), np.asarray(scores, np.float64)
    if not is_unsafe.any() or is_unsafe.all():
        raise DataError("needs safe and unsafe items to choose a threshold; complete the set")
    # the highest threshold, half-way between two scores, that finds the stated share of the unsafe items
    levels = np.unique(scores)
    between = np.r_[levels[0], (levels[1:] + levels[:-1]) / 2]
    recalls = (scores[is_unsafe] >= between[:, None]).mean(axis=1)
    highest = float(between[recalls >= recall - 1e-9].max())
    even = _even_odds(scores, is_unsafe)
    threshold = highest if even is None else min(even, highest)
    if (scores >= threshold).all():
        raise DataError(
            f"no threshold finds {recall:.0%} of the unsafe items without calling everything unsafe; "
            "remove the labeller, ask for less, or set a `threshold`"
        )
    return float(threshold)


def _even_odds(scores: np.ndarray, unsafe: np.ndarray) -> float | None:
    """Return the score at which the fitted sigmoid is a half; None if unsafe items do not score higher."""
    # 1e-4 keeps the log odds of scores of exactly 0 and 1 finite
    clipped = np.clip(scores, 1e-4, 1 - 1e-4)
    evidence = np.log(clipped / (1 - clipped))[:, None]
    hits, rest = unsafe.sum(), (~unsafe).sum()
    target = np.where(unsafe, (hits + 1) / (hits + 2), 1 / (rest + 2))
    # scikit-learn takes no soft targets: each item stands in for both labels, weighted by its target
    fit = LogisticRegression(C=1e6, max_iter=1000)
    fit.fit(np.r_[evidence, evidence], np.repeat([1, 0], len(scores)), np.r_[target, 1 - target])
    slope, offset = float(fit.coef_[0, 0]), float(fit.intercept_[0])
    return 1 / (1 + float(np.exp(np.clip(offset / slope, -50, 50)))) if slope > 1e-6 else None


def centre(scores: np.ndarray, threshold: float) -> np.ndarray:
    """Stretch scores in [0, 1], each side by itself, so that the threshold lies at 0.5; float32 [N]."""
    scores = np.clip(np.asarray(scores, np.float64), 0.0, 1.0)
    below = DECISION * scores / max(threshold, 1e-12)
    above = DECISION + DECISION * (scores - threshold) / max(1.0 - threshold, 1e-12)
    centred = np.where(scores >= threshold, np.clip(above, DECISION, 1.0), np.minimum(below, DECISION - 1e-6))
    return centred.astype(np.float32)
