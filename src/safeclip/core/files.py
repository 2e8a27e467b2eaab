"""A disk that is full or may not be written, told in one line instead of a traceback."""

from __future__ import annotations

import errno
import os
import re
import tarfile
from pathlib import Path

_REMEDY = {
    errno.ENOSPC: "free some space",
    errno.EDQUOT: "free some space or raise the quota",
    errno.EFBIG: "raise the limit on file sizes (`ulimit -f`)",
    errno.EROFS: "make it writable",
    errno.EACCES: "give this user access",
    errno.EPERM: "give this user access",
}
_RUST = re.compile(r"\(os error (\d+)\)")  # how safetensors tells it


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


# Unpack an archive into a folder and nowhere else.


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
