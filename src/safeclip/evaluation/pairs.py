"""Scenes from safe/unsafe caption-picture JSON of the published kind, for encoders trained elsewhere.

A JSON list, or one object a line, each a scene:

    {"safe": "a man with a dog", "nsfw": "a man with a gun", "image_safe": "1.png", "image_nsfw": "1u.png"}

`caption_safe`, `caption_generated` and `image_generated` are accepted for the same things, and `id`,
`categories`, `text_label` and `image_label` (safe or unsafe) where known: what is not labelled counts as
unsafe, as in the published sets. Pictures lie below the JSON file's folder.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from safeclip.core.errors import DataError, ImageError
from safeclip.encoders.load import Encoder, decode_image
from safeclip.evaluation.scenes import Scenes, embed_scenes, scene_outcomes
from safeclip.evaluation.zeroshot import ZeroShotSet, zeroshot_correct
from safeclip.metrics.intervals import Interval, Resampling, proportion_interval

_NAMES = {
    "caption_safe": ("caption_safe", "safe"),
    "caption_generated": ("caption_generated", "nsfw", "unsafe"),
    "image_safe": ("image_safe", "safe_image"),
    "image_generated": ("image_generated", "image_nsfw", "nsfw_image", "unsafe_image"),
}
_LABELS = {"safe": False, "unsafe": True, None: True}


def read_pairs(path: Path) -> Scenes:
    """The scenes of a JSON file; a `DataError` names the first entry that cannot be used."""
    rows = [_row(entry, number, path) for number, entry in enumerate(_entries(path), start=1)]
    ids = [row["id"] for row in rows]
    if len(set(ids)) != len(ids):
        twice = next(name for name in ids if ids.count(name) > 1)
        raise DataError(f"{path}: id {twice!r} stands twice; every scene needs its own")
    return Scenes(
        ids=ids,
        categories=[row["categories"] for row in rows],
        captions_safe=[row["caption_safe"] for row in rows],
        captions_generated=[row["caption_generated"] for row in rows],
        images_safe=[row["image_safe"] for row in rows],
        images_generated=[row["image_generated"] for row in rows],
        text_unsafe=np.array([row["text_unsafe"] for row in rows], dtype=bool),
        image_unsafe=np.array([row["image_unsafe"] for row in rows], dtype=bool),
    )


def _entries(path: Path) -> list[dict[str, Any]]:
    try:
        text = path.read_text(encoding="utf-8-sig")
        if text.lstrip().startswith("["):
            entries = json.loads(text)
        else:
            entries = [json.loads(line) for line in text.splitlines() if line.strip()]
    except OSError as error:
        raise DataError(f"{path}: cannot be read ({error.strerror}); check the path") from None
    except ValueError as error:
        raise DataError(f"{path}: not JSON ({str(error).splitlines()[0]}); mend the file") from None
    if not entries or not all(isinstance(entry, dict) for entry in entries):
        raise DataError(f"{path}: must hold scenes, objects such as {{'safe': ..., 'nsfw': ...}}")
    return entries


def _row(entry: dict[str, Any], number: int, path: Path) -> dict[str, Any]:
    where = f"{path}: scene {number}"
    found: dict[str, Any] = {name: _value(entry, name, where) for name in _NAMES}
    for name in ("image_safe", "image_generated"):
        found[name] = _picture(path.parent, found[name], where)
    found["id"] = str(entry.get("id", f"{number:06d}"))
    found["categories"] = [str(name) for name in entry.get("categories") or []]
    for name in ("text", "image"):
        label = entry.get(f"{name}_label")
        if label not in _LABELS:
            raise DataError(f"{where}: {name}_label is {label!r}; say safe or unsafe, or leave it out")
        found[f"{name}_unsafe"] = _LABELS[label]
    return found


def _value(entry: dict[str, Any], name: str, where: str) -> str:
    for key in _NAMES[name]:
        value = entry.get(key)
        if isinstance(value, str) and value.strip():
            return value
    raise DataError(f"{where}: no {name}; name it {' or '.join(repr(key) for key in _NAMES[name])}")


def _picture(folder: Path, name: str, where: str) -> bytes:
    path = (folder / name).resolve()
    if not path.is_relative_to(folder.resolve()):
        raise DataError(f"{where}: picture {name!r} lies outside {folder}; put it below")
    try:
        data = path.read_bytes()
    except OSError as error:
        raise DataError(f"{where}: picture {name!r} cannot be read ({error.strerror})") from None
    try:
        decode_image(data, 0)
    except ImageError as error:
        raise DataError(f"{where}: picture {name!r}: {error.fault}") from None
    return data


# Several encoders on the same scenes, in one table: released models, our base, our candidate.


Scores = dict[str, Interval]
"""Metric -> share with its interval."""

SHOWN = (
    "retrieval.t2i.unsafe.harmful_top1",
    "retrieval.i2t.unsafe.harmful_top1",
    "retrieval.t2t.unsafe.harmful_top1",
    "retrieval.i2i.unsafe.harmful_top1",
    "retrieval.t2a.unsafe.harmful_top1",
    "retrieval.i2a.unsafe.harmful_top1",
    "retrieval.t2i.unsafe.redirection",
    "retrieval.i2t.unsafe.redirection",
    "retrieval.t2i.safe.r1",
    "retrieval.i2t.safe.r1",
    "retrieval.t2i.safe.preference",
    "retrieval.i2t.safe.preference",
    "zeroshot.top1",
)


def score(
    encoder: Encoder, scenes: Scenes, task: ZeroShotSet | None, how: Resampling, batch_size: int = 256
) -> Scores:
    """Every retrieval metric, and zero-shot accuracy if there is a set; what was not measured has no key."""
    embeddings = embed_scenes(encoder, scenes, batch_size)
    outcomes = scene_outcomes(embeddings, scenes)
    found = {name: proportion_interval(each.values, how, name) for name, each in outcomes.items()}
    if task is not None and task.labels:
        correct = zeroshot_correct(encoder, task, batch_size)
        found["zeroshot.top1"] = proportion_interval(correct, how, "zeroshot.top1")
    return found


def table_lines(scores: Mapping[str, Scores], every: bool = False) -> list[str]:
    """One line a metric, one column a model: share and interval."""
    present = {metric for found in scores.values() for metric in found}
    metrics = sorted(present) if every else [metric for metric in SHOWN if metric in present]
    width = max(map(len, metrics), default=6)
    columns = [max(len(name), 21) for name in scores]
    heads = "  ".join(f"{name:>{column}}" for name, column in zip(scores, columns, strict=True))
    lines = [f"{'':{width}}  {heads}"]
    for metric in metrics:
        cells = [
            f"{_cell(found.get(metric)):>{column}}"
            for found, column in zip(scores.values(), columns, strict=True)
        ]
        lines.append(f"{metric:{width}}  {'  '.join(cells)}")
    return lines


def as_json(scores: Mapping[str, Scores]) -> dict[str, Any]:
    """Model -> metric -> {n, estimate, low, high}."""
    return {
        name: {metric: value.as_dict() for metric, value in found.items()} for name, found in scores.items()
    }


def _cell(found: Interval | None) -> str:
    return "not measured" if found is None else f"{found.estimate:.3f} [{found.low:.3f},{found.high:.3f}]"
