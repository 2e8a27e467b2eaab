"""Unpack an archive into a folder and nowhere else."""

from __future__ import annotations

import tarfile
from pathlib import Path


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
