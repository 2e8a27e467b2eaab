"""Files that appear whole or not at all, digests, archives, and what is wrong with a disk in one line."""

from __future__ import annotations

import errno
import hashlib
import json
import os
import re
import shutil
import tarfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

_REMEDY = {
    errno.ENOSPC: "free some space",
    errno.EDQUOT: "free some space or raise the quota",
    errno.EFBIG: "raise the limit on file sizes (`ulimit -f`)",
    errno.EROFS: "make it writable",
    errno.EACCES: "give this user access",
    errno.EPERM: "give this user access",
}
_RUST = re.compile(r"\(os error (\d+)\)")  # how safetensors tells it


@contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """A hidden path beside `path` to write a file or a folder to; renamed to `path` if the block ends well.

    Whatever was at `path` stays whole until then, also after kill -9. What is half-written is removed.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_name(f".{path.name}.partial")
    remove(partial)
    try:
        yield partial
    except BaseException:
        remove(partial)
        raise
    if partial.is_dir():
        remove(path)
    os.replace(partial, path)


def remove(path: Path) -> None:
    """Delete a file or a folder, if it is there."""
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)


def write_text(path: Path, text: str) -> None:
    """Write UTF-8 text, atomically."""
    with replacing(path) as partial:
        partial.write_text(text, encoding="utf-8")


def write_json(path: Path, value: Any) -> None:
    """Write sorted, indented JSON, atomically; NaN and infinity are refused with a ValueError."""
    write_text(path, json.dumps(value, indent=2, sort_keys=True, allow_nan=False) + "\n")


def sha256(path: Path) -> str:
    """Hex digest of a file's bytes."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def digest_of(*parts: str) -> str:
    """Hex SHA-256 over strings, separated so that no two lists of strings have the same digest."""
    return hashlib.sha256("\0".join(parts).encode()).hexdigest()


def tree_digest(path: Path) -> str:
    """Of a file, or of the names and bytes of the files below a folder; "missing" if there is neither."""
    if path.is_file():
        return sha256(path)
    files = sorted(file for file in path.rglob("*") if file.is_file())
    lines = [f"{file.relative_to(path).as_posix()} {sha256(file)}" for file in files]
    return hashlib.sha256("\n".join(lines).encode()).hexdigest() if lines else "missing"


def storage_fault(error: BaseException) -> str | None:
    """ "FILE: what is wrong with the disk; the remedy", or None if the error is of another kind.

    Whatever was whole before still is, because outputs and checkpoints are renamed into place when finished.
    """
    number = error.errno if isinstance(error, OSError) else None
    if number is None and (told := _RUST.search(str(error))):
        number = int(told.group(1))
    if number is None and error.__cause__ is not None:
        return storage_fault(error.__cause__)
    if number not in _REMEDY:
        return None
    where = f"{filename}: " if (filename := getattr(error, "filename", None)) else ""
    return f"{where}{os.strerror(number).lower()}; {_REMEDY[number]} and run again, what was finished is kept"


def unpack(archive: tarfile.TarFile, folder: Path, within: str = "") -> None:
    """Write the files and folders of `archive`, or those below one called `within`, into `folder`.

    What `tarfile`'s own `data` filter does, for Python before 3.11.4 as well.

    Raises:
        tarfile.TarError: a member would lie outside of `folder`, or is a link or a device.
    """
    root = folder.resolve()
    for member in archive:
        if within and f"/{within}/" not in f"/{member.name}/":
            continue
        if not (member.isfile() or member.isdir()) or not (root / member.name).resolve().is_relative_to(root):
            raise tarfile.TarError(f"{member.name} is no plain file inside of the archive's folder")
        archive.extract(member, root, set_attrs=False)
