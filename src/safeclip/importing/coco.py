"""Captions in COCO's format.

{"images": [{"id", "file_name"}, ...], "annotations": [{"id", "image_id", "caption"}, ...]}
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any

from safeclip.errors import DataError
from safeclip.importing.items import Item, read_below
from safeclip.importing.words import decode


def coco_items(path: Path, pictures: Path) -> Iterator[Item]:
    """One item an entry of `images`, its captions by annotation id; `pictures` holds the files."""
    content = _read(path)
    captions = dict(_captions(content["annotations"]))
    seen: set[str] = set()
    for number, image in enumerate(content["images"]):
        name, key = _name(image), _key(image)
        if name is None or key is None:
            where = f"{path.name}: images[{number}]"
            yield Item(where, where, fault="has no `id` or no `file_name`")
            continue
        seen.add(key)
        texts = [text for _, text in sorted(captions.get(key, []))]
        fault = None if texts else "has no caption"
        yield Item(name, key, texts, partial(read_below, pictures, name), fault)
    for key in sorted(set(captions) - seen):
        name = f"{path.name}: captions of image {key.removeprefix('coco-')}"
        yield Item(name, key, fault="belong to a picture that `images` does not list")


def _read(path: Path) -> dict[str, list[Any]]:
    try:
        content = json.loads(decode(path.read_bytes())[0])
    except OSError as error:
        raise DataError(f"{path}: cannot be read ({error.strerror}); give a COCO caption file") from None
    except (ValueError, RecursionError) as error:
        first = str(error).splitlines()[0]
        raise DataError(f"{path}: not valid JSON ({first}); give a COCO caption file") from None
    lists = content if isinstance(content, dict) else {}
    for key in ("images", "annotations"):
        if not isinstance(lists.get(key), list):
            raise DataError(f"{path}: `{key}` is no list; give a COCO caption file (captions_*.json)")
    return lists


def _captions(annotations: list[Any]) -> dict[str, list[tuple[int, str]]]:
    """Item key -> (annotation id, caption); entries that are no captions are left out."""
    found: dict[str, list[tuple[int, str]]] = {}
    for number, entry in enumerate(annotations):
        if isinstance(entry, dict) and isinstance(entry.get("caption"), str):
            key = _key({"id": entry.get("image_id")})
            order = entry.get("id")
            if key is not None:
                found.setdefault(key, []).append(
                    (order if isinstance(order, int) else number, entry["caption"])
                )
    return found


def _name(image: Any) -> str | None:
    name = image.get("file_name") if isinstance(image, dict) else None
    return name if isinstance(name, str) and name else None


def _key(image: Any) -> str | None:
    """COCO's own id, as wide as COCO's file names write it."""
    number = image.get("id") if isinstance(image, dict) else None
    if isinstance(number, bool) or not isinstance(number, int | str):
        return None
    return f"coco-{number:012d}" if isinstance(number, int) else f"coco-{number}"
