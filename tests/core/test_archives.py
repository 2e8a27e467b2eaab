"""An archive is unpacked into its folder and nowhere else."""

from __future__ import annotations

import io
import tarfile
from pathlib import Path

import pytest

from safeclip.core.files import unpack


def archive_of(path: Path, *members: tarfile.TarInfo) -> tarfile.TarFile:
    with tarfile.open(path, "w") as archive:
        for member in members:
            archive.addfile(member, io.BytesIO(b"x" * member.size))
    return tarfile.open(path)


def member(name: str, kind: bytes = tarfile.REGTYPE, target: str = "") -> tarfile.TarInfo:
    info = tarfile.TarInfo(name)
    info.type, info.linkname, info.mode = kind, target, 0o4777
    info.size = 3 if kind == tarfile.REGTYPE else 0
    return info


def test_files_are_written_without_the_modes_of_the_archive(tmp_path: Path) -> None:
    with archive_of(tmp_path / "a.tar", member("./models/one/weights"), member("src/code.py")) as archive:
        unpack(archive, tmp_path / "out")
    assert (tmp_path / "out/models/one/weights").read_bytes() == b"xxx"
    assert (tmp_path / "out/src/code.py").stat().st_mode & 0o7111 == 0


def test_only_what_lies_within_is_written(tmp_path: Path) -> None:
    with archive_of(tmp_path / "a.tar", member("./models/one"), member("src/models.py")) as archive:
        unpack(archive, tmp_path / "out", within="models")
    assert [str(path.relative_to(tmp_path / "out")) for path in (tmp_path / "out").rglob("*")] == [
        "models",
        "models/one",
    ]


@pytest.mark.parametrize(
    "hostile",
    [
        member("../outside"),
        member("/etc/outside"),
        member("models/../../outside"),
        member("link", tarfile.SYMTYPE, "/etc"),
        member("hard", tarfile.LNKTYPE, "../outside"),
        member("device", tarfile.CHRTYPE),
        member("pipe", tarfile.FIFOTYPE),
    ],
    ids=lambda info: info.name,
)
def test_what_leaves_the_folder_is_refused(tmp_path: Path, hostile: tarfile.TarInfo) -> None:
    with (
        archive_of(tmp_path / "a.tar", hostile) as archive,
        pytest.raises(tarfile.TarError, match="no plain file"),
    ):
        unpack(archive, tmp_path / "out")
    assert not (tmp_path / "outside").exists()
