"""Read items from COCO JSON, JSON Lines, CSV or TSV, webdataset shards, or a folder of one of these."""

from __future__ import annotations

import csv
import json
import re
import tarfile
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

from safeclip.core.errors import DataError
from safeclip.data.items import Item, ItemFault, check_size, decode, read_below


def coco_items(path: Path, images: Path) -> Iterator[Item]:
    """Yield an item for each entry of `images`, its captions by annotation id; `images` holds the files.

    The format: {"images": [{"id", "file_name"}, ...], "annotations": [{"id", "image_id", "caption"}, ...]}.
    """
    content = _read_coco(path)
    captions = _captions(content["annotations"])
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
        yield Item(name, key, texts, partial(read_below, images, name), fault)
    for key in sorted(set(captions) - seen):
        name = f"{path.name}: captions of image {key.removeprefix('coco-')}"
        yield Item(name, key, fault="belong to an image that `images` does not list")


def _read_coco(path: Path) -> dict[str, list[Any]]:
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
    captions: dict[str, list[tuple[int, str]]] = {}
    for number, entry in enumerate(annotations):
        if isinstance(entry, dict) and isinstance(entry.get("caption"), str):
            key = _key({"id": entry.get("image_id")})
            order = entry.get("id")
            if key is not None:
                captions.setdefault(key, []).append(
                    (order if isinstance(order, int) else number, entry["caption"])
                )
    return captions


def _name(image: Any) -> str | None:
    name = image.get("file_name") if isinstance(image, dict) else None
    return name if isinstance(name, str) and name else None


def _key(image: Any) -> str | None:
    """COCO's own id, as wide as COCO's file names write it."""
    number = image.get("id") if isinstance(image, dict) else None
    if isinstance(number, bool) or not isinstance(number, int | str):
        return None
    return f"coco-{number:012d}" if isinstance(number, int) else f"coco-{number}"


# A line of a list that is no entry becomes an item with a fault; the other lines are read.
FILE_KEYS = ("file", "file_name", "filename", "filepath", "image", "image_path", "path")
CAPTION_KEYS = ("caption", "captions", "text", "title", "description")


def jsonl_items(path: Path, images: Path) -> Iterator[Item]:
    """{"file": ..., "caption": ...} a line (a list of captions is one image's); other keys are ignored."""
    text, note = _text(path)
    for number, line in enumerate(text.split("\n"), start=1):
        if line.strip():
            yield _item(f"{path.name}:{number}", _parse(line), images, note)


def table_items(path: Path, images: Path) -> Iterator[Item]:
    """Rows of CSV or TSV; the header names the columns, or there are two: file and caption."""
    text, note = _text(path)
    lines = text.splitlines(keepends=True)
    first_line = lines[0] if lines else ""
    delimiter = "\t" if path.suffix == ".tsv" else max(",;\t", key=first_line.count)
    rows = csv.reader(lines, delimiter=delimiter)
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
                yield _item(where, _entry(row, columns), images, note)
    except csv.Error as error:
        raise DataError(f"{path}:{rows.line_num}: not CSV ({error}); mend the line") from None


def _text(path: Path) -> tuple[str, str | None]:
    try:
        return decode(path.read_bytes())
    except OSError as error:
        raise DataError(f"{path}: cannot be read ({error.strerror}); check the name") from None


def _item(where: str, entry: Mapping[str, Any] | None, images: Path, note: str | None) -> Item:
    name = _first(entry, FILE_KEYS)
    captions = _first(entry, CAPTION_KEYS)
    if isinstance(captions, str):
        captions = [captions]
    if not isinstance(name, str) or not name:
        return Item(where, where, fault="names no file; give `file` and `caption`")
    if not isinstance(captions, list) or not all(isinstance(text, str) for text in captions):
        return Item(name, name, fault="has no caption")
    notes = (note,) if note else ()
    return Item(name, name, captions, partial(read_below, images, name), None, notes)


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


IMAGE_EXTENSIONS = ("jpg", "jpeg", "png", "webp", "gif", "bmp", "tif", "tiff")
CAPTIONS = ("txt", "text", "caption", "cap")
MAX_CAPTION_BYTES = 1_000_000
# The webdataset convention: the key ends at the first dot of the file's name.
_MEMBER_NAME = re.compile(r"((?:.*/)?[^./]+)\.([^/]*)", re.DOTALL)


@dataclass
class _Sample:
    key: str
    image: bytes | None = None
    extension: str = ""
    captions: list[str] = field(default_factory=list)
    faults: list[str] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)


def shard_items(path: Path) -> Iterator[Item]:
    """Yield the samples of a webdataset shard: files of one name and several extensions are one item.

    Nothing is unpacked to disk, so a member's name is only a label. A broken archive ends with an item that
    says so.
    """
    sample: _Sample | None = None
    try:
        with tarfile.open(path, mode="r:") as archive:
            for member in archive:
                named = _MEMBER_NAME.fullmatch(member.name)
                if named is None or member.isdir():
                    continue
                key, extension = named.groups()
                if sample is not None and sample.key != key:
                    yield _sample_item(path, sample)
                    sample = None
                sample = sample or _Sample(key)
                _add(sample, archive, member, extension.lower())
    except FileNotFoundError:
        raise DataError(f"{path}: no such file; check the name") from None
    except (tarfile.TarError, OSError, ValueError, EOFError) as error:
        first = str(error).splitlines()[0] if str(error) else type(error).__name__
        yield Item(
            path.name, path.name, fault=f"the archive is broken here ({first}); only plain .tar is read"
        )
    if sample is not None:
        yield _sample_item(path, sample)


def _add(sample: _Sample, archive: tarfile.TarFile, member: tarfile.TarInfo, extension: str) -> None:
    last = extension.rpartition(".")[2]
    if last not in (*IMAGE_EXTENSIONS, *CAPTIONS, "json"):
        return
    try:
        data = _read_member(archive, member, last)
    except ItemFault as fault:
        sample.faults.append(str(fault))
        return
    if last in IMAGE_EXTENSIONS and sample.image is None:
        sample.image, sample.extension = data, last
        return
    text, note = decode(data)
    sample.notes += [note] if note else []
    caption = text if last in CAPTIONS else (_parse(text) or {}).get("caption")
    sample.captions += [caption] if isinstance(caption, str) else []


def _read_member(archive: tarfile.TarFile, member: tarfile.TarInfo, extension: str) -> bytes:
    if not member.isreg():
        raise ItemFault("is a link or a device in the archive, not a file")
    check_size(member.size)
    if extension not in IMAGE_EXTENSIONS and member.size > MAX_CAPTION_BYTES:
        raise ItemFault(f"its caption file is too large ({member.size:,} bytes)")
    file = archive.extractfile(member)
    data = file.read() if file else b""
    if len(data) != member.size:
        raise tarfile.ReadError("unexpected end of data")
    return data


def _sample_item(path: Path, sample: _Sample) -> Item:
    fault = sample.faults[0] if sample.faults else None
    if fault is None and sample.image is None:
        fault = "has no image"
    if fault is None and not sample.captions:
        fault = "has no caption"
    image = sample.image or b""
    name = f"{path.name}/{sample.key}.{sample.extension}".rstrip(".")
    key = f"{path.stem}/{sample.key}"
    return Item(name, key, sample.captions, lambda: image, fault, tuple(sample.notes))


# The reader of a file, by its extension.
KINDS = {
    ".json": "coco",
    ".jsonl": "jsonl",
    ".ndjson": "jsonl",
    ".csv": "table",
    ".tsv": "table",
    ".tar": "shard",
}


def find_sources(path: Path) -> list[Path]:
    """The caption files or shards behind a path, sorted; `DataError` if none or unclear."""
    if path.is_file():
        if path.suffix.lower() not in KINDS:
            raise DataError(f"{path}: none of {', '.join(sorted(KINDS))}; give a caption file or shards")
        return [path]
    if not path.is_dir():
        raise DataError(f"{path}: no such file or folder; check the name")
    files = sorted(file for file in path.iterdir() if file.is_file() and file.suffix.lower() in KINDS)
    kinds = {KINDS[file.suffix.lower()] for file in files}
    if kinds == {"shard"} or len(files) == 1:
        return files
    if not files:
        raise DataError(f"{path}: holds no caption file ({', '.join(sorted(KINDS))}); name it")
    raise DataError(f"{path}: holds {len(files)} files that may be captions ({files[0].name}, ...); name one")


def read_items(sources: Sequence[Path], images: Path | None) -> Iterator[Item]:
    """Yield the items of all sources in order.

    `images` is the folder where file names start. None: `images/` beside a COCO file, where there is one,
    else the folder of the caption file.
    """
    for path in sources:
        kind = KINDS[path.suffix.lower()]
        if kind == "shard":
            yield from shard_items(path)
            continue
        folder = images or path.parent
        if images is None and kind == "coco" and (path.parent / "images").is_dir():
            folder = path.parent / "images"
        if not folder.is_dir():
            raise DataError(f"{folder}: no such folder; give the images' folder with --images")
        read = {"coco": coco_items, "jsonl": jsonl_items, "table": table_items}[kind]
        yield from read(path, folder)
