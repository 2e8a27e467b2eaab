"""Which reader a source needs: COCO JSON, JSON Lines, CSV or TSV, webdataset shards, a folder of one."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path

from safeclip.errors import DataError
from safeclip.importing.coco import coco_items
from safeclip.importing.items import Item
from safeclip.importing.listing import jsonl_items, table_items

KINDS = {
    ".json": "coco",
    ".jsonl": "jsonl",
    ".ndjson": "jsonl",
    ".csv": "table",
    ".tsv": "table",
    ".tar": "shard",
}
"""What a file is, by its extension."""


def find_sources(path: Path) -> list[Path]:
    """The caption files or shards behind a path, sorted; `DataError` if none or unclear."""
    if path.is_file():
        if path.suffix.lower() not in KINDS:
            raise DataError(f"{path}: none of {', '.join(sorted(KINDS))}; give a caption file or shards")
        return [path]
    if not path.is_dir():
        raise DataError(f"{path}: no such file or folder; check the name")
    found = sorted(file for file in path.iterdir() if file.is_file() and file.suffix.lower() in KINDS)
    kinds = {KINDS[file.suffix.lower()] for file in found}
    if kinds == {"shard"} or len(found) == 1:
        return found
    if not found:
        raise DataError(f"{path}: holds no caption file ({', '.join(sorted(KINDS))}); name it")
    raise DataError(f"{path}: holds {len(found)} files that may be captions ({found[0].name}, ...); name one")


def read_items(sources: Sequence[Path], pictures: Path | None) -> Iterator[Item]:
    """The items of all sources in order. `pictures` is where file names start; None: beside each source."""
    for path in sources:
        kind = KINDS[path.suffix.lower()]
        if kind == "shard":
            from safeclip.importing.shards import shard_items

            yield from shard_items(path)
            continue
        folder = pictures or _pictures_beside(path)
        if not folder.is_dir():
            raise DataError(f"{folder}: no such folder; give the pictures' folder with --images")
        read = {"coco": coco_items, "jsonl": jsonl_items, "table": table_items}[kind]
        yield from read(path, folder)


def _pictures_beside(path: Path) -> Path:
    """`images/` beside a COCO file, where there is one; otherwise the caption file's own folder."""
    images = path.parent / "images"
    return images if KINDS[path.suffix.lower()] == "coco" and images.is_dir() else path.parent
