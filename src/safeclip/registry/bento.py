"""Build the Bento and write it as one `.tar` whose bytes depend on its contents alone.

BentoML stamps the time of building and Python's patch version into YAML files, and the time into the
archive's headers. Here every time is `EPOCH`, the patch version is left out, the owner is nobody and members
are sorted, so that the same inputs give the same file.
"""

from __future__ import annotations

import os
import re
import shutil
import tarfile
import tempfile
from pathlib import Path

from ruamel.yaml import YAML

EPOCH = "2000-01-01T00:00:00+00:00"
_EPOCH_SECONDS = 946684800
_CREATION_TIME = re.compile(r"^(\s*creation_time: ).*$", re.MULTILINE)
_PYTHON_VERSION = re.compile(r"^(\s*python_version: )'?(\d+\.\d+)[\d.]*'?$", re.MULTILINE)


def build_bento(root: Path, model: Path, card: str, name: str, version: str, target: Path) -> None:
    """Build the Bento that `root`/bentofile.yaml describes around the model folder and write it to `target`.

    `BENTOML_HOME` must name a fresh folder and be set before this module's first call: BentoML reads it when
    it is imported.
    """
    import bentoml

    with bentoml.models.create(f"safeclip:{version}") as entry:
        shutil.copytree(model, entry.path, dirs_exist_ok=True)
    with tempfile.TemporaryDirectory() as context:
        _copy_sources(root, Path(context))
        bento = bentoml.bentos.build_bentofile(
            str(root / "bentofile.yaml"), name=name, version=version, build_ctx=context
        )
    folder = Path(bento.path)
    (folder / "README.md").write_text(card, encoding="utf-8")
    _copy_model(folder, version)
    for stamped in (*folder.glob("bento.yaml"), *folder.glob("models/**/model.yaml")):
        stamped.write_text(without_stamps(stamped.read_text()))
    write_tar(folder, target)


def without_stamps(described: str) -> str:
    """BentoML's YAML with `EPOCH` for every time, and of Python's version the first two numbers."""
    timeless = _CREATION_TIME.sub(rf"\g<1>'{EPOCH}'", described)
    return _PYTHON_VERSION.sub(r"\1'\2'", timeless)


def _copy_sources(root: Path, context: Path) -> None:
    """The files that bentofile.yaml names, and no others: BentoML matches each file of its build context
    against each of its patterns, and a checkout with its environments holds a hundred thousand."""
    described = YAML(typ="safe").load(root / "bentofile.yaml")
    for name in (*described["include"], described["python"]["requirements_txt"]):
        (context / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy2(root / name, context / name)


def _copy_model(bento: Path, version: str) -> None:
    """Put the model where an exported Bento carries it (models/NAME/VERSION)."""
    import bentoml

    home = bento / "models" / "safeclip"
    shutil.copytree(bentoml.models.get(f"safeclip:{version}").path, home / version, dirs_exist_ok=True)
    (home / "latest").write_text(version)


def write_tar(folder: Path, target: Path) -> None:
    """Archive `folder` at `target`, atomically, with sorted members, fixed times and no owner."""
    partial = target.with_name(f".{target.name}.partial")
    with tarfile.open(partial, "w", format=tarfile.GNU_FORMAT) as archive:
        for path in sorted(folder.rglob("*")):
            member = archive.gettarinfo(path, f"./{path.relative_to(folder)}")
            member.mtime = _EPOCH_SECONDS
            member.uid = member.gid = 0
            member.uname = member.gname = ""
            member.mode = 0o755 if path.is_dir() or os.access(path, os.X_OK) else 0o644
            if path.is_file():
                with path.open("rb") as handle:
                    archive.addfile(member, handle)
            else:
                archive.addfile(member)
    os.replace(partial, target)
