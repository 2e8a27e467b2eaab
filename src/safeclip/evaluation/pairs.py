"""Scenes from safe/unsafe caption-picture JSON of the published kind, for encoders trained elsewhere.

A JSON list, or one object a line, each a scene:

    {"safe": "a man with a dog", "nsfw": "a man with a gun", "image_safe": "1.png", "image_nsfw": "1u.png"}

`caption_safe`, `caption_generated` and `image_generated` are accepted for the same things, and `id`,
`categories`, `text_label` and `image_label` (safe or unsafe) where known: what is not labelled counts as
unsafe, as in the published sets. Pictures lie below the JSON file's folder.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np

from safeclip.encoders.load import decode_image
from safeclip.errors import DataError
from safeclip.evaluation.scenes import Scenes

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
    except DataError as error:
        raise DataError(f"{where}: picture {name!r}{str(error).removeprefix('image 0')}") from None
    return data
