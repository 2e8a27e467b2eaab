"""Webdataset shards: tar archives in which files of one name and several extensions are one sample.

Nothing is unpacked to disk: a member's name is only a label, whatever it says.
"""

from __future__ import annotations

import json
import re
import tarfile
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

from safeclip.errors import DataError
from safeclip.importing.items import Item, ItemFault, check_size
from safeclip.importing.words import decode

PICTURES = ("jpg", "jpeg", "png", "webp", "gif", "bmp", "tif", "tiff")
CAPTIONS = ("txt", "text", "caption", "cap")
MAX_CAPTION_BYTES = 1_000_000
_NAME = re.compile(
    r"((?:.*/)?[^./]+)\.([^/]*)", re.DOTALL
)  # webdataset: the key ends at the name's first dot


@dataclass
class _Sample:
    key: str
    picture: bytes | None = None
    extension: str = ""
    captions: list[str] = field(default_factory=list)
    faults: list[str] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)


def shard_items(path: Path) -> Iterator[Item]:
    """One item a sample of the archive; a broken archive ends with an item that says so."""
    sample: _Sample | None = None
    try:
        with tarfile.open(path, mode="r:") as archive:
            for member in archive:
                named = _NAME.fullmatch(member.name)
                if named is None or member.isdir():
                    continue
                key, extension = named.groups()
                if sample is not None and sample.key != key:
                    yield _item(path, sample)
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
        yield _item(path, sample)


def _add(sample: _Sample, archive: tarfile.TarFile, member: tarfile.TarInfo, extension: str) -> None:
    last = extension.rpartition(".")[2]
    if last not in (*PICTURES, *CAPTIONS, "json"):
        return
    try:
        data = _read(archive, member, last)
    except ItemFault as fault:
        sample.faults.append(str(fault))
        return
    if last in PICTURES and sample.picture is None:
        sample.picture, sample.extension = data, last
        return
    text, note = decode(data)
    sample.notes += [note] if note else []
    sample.captions += [text] if last in CAPTIONS else _captions_of_json(text)


def _read(archive: tarfile.TarFile, member: tarfile.TarInfo, extension: str) -> bytes:
    if not member.isreg():
        raise ItemFault("is a link or a device in the archive, not a file")
    check_size(member.size)
    if extension not in PICTURES and member.size > MAX_CAPTION_BYTES:
        raise ItemFault(f"its caption file is too large ({member.size:,} bytes)")
    file = archive.extractfile(member)
    data = file.read() if file else b""
    if len(data) != member.size:
        raise tarfile.ReadError("unexpected end of data")
    return data


def _captions_of_json(text: str) -> list[str]:
    try:
        found = json.loads(text)
    except (ValueError, RecursionError):
        return []
    caption = found.get("caption") if isinstance(found, dict) else None
    return [caption] if isinstance(caption, str) else []


def _item(path: Path, sample: _Sample) -> Item:
    fault = next(iter(sample.faults), None)
    if fault is None and sample.picture is None:
        fault = "has no picture"
    if fault is None and not sample.captions:
        fault = "has no caption"
    picture = sample.picture or b""
    name = f"{path.name}/{sample.key}.{sample.extension}".rstrip(".")
    key = f"{path.stem}/{sample.key}"
    return Item(name, key, sample.captions, lambda: picture, fault, tuple(sample.notes))
