"""A copy of a checkout to run in, as a fresh clone would be: what git tracks or would track, no results."""

from __future__ import annotations

import os
import shutil
import subprocess
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from ruamel.yaml import YAML

from safeclip.errors import PipelineError, SettingsError
from safeclip.settings.project import load_settings

TINY = Path("benchmarks/tiny.yaml")
PROFILES = Path("profiles")


def copy_checkout(root: Path, folder: Path) -> Path:
    """Copy every file of `root` that git does not ignore to `folder`, and make that a git repository."""
    listed = _git(root, "ls-files", "-z", "--cached", "--others", "--exclude-standard")
    for name in filter(None, listed.split("\0")):
        if (root / name).is_file():
            (folder / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy2(root / name, folder / name)
    _git(folder, "init", "--quiet")
    return folder


def override_params(root: Path, changes: Mapping[str, Mapping[str, Any]]) -> None:
    """Change values in the sections of `root`/params.yaml; comments and the rest stay."""
    override_values(root / "params.yaml", changes)


def override_values(path: Path, changes: Mapping[str, Any]) -> None:
    """The same for any such file; what is no section is replaced, a missing section made."""
    yaml = YAML()
    params = yaml.load(path.read_text(encoding="utf-8"))
    for section, values in changes.items():
        if isinstance(values, Mapping):
            params.setdefault(section, {}).update(values)
        else:
            params[section] = values
    with path.open("w", encoding="utf-8") as file:
        yaml.dump(params, file)


def apply_profile(root: Path, name: str) -> list[str]:
    """Write `root`/profiles/NAME.yaml into params.yaml; the dotted keys whose values changed.

    `SettingsError`, and nothing is written, if there is no such profile or the result would not be valid.
    """
    known = sorted(path.stem for path in (root / PROFILES).glob("*.yaml"))
    if name not in known:
        raise SettingsError(f"{name}: no such profile; known are {', '.join(known) or 'none'}")
    path, plain = root / "params.yaml", YAML(typ="safe")
    changes = plain.load((root / PROFILES / f"{name}.yaml").read_text(encoding="utf-8"))
    before = plain.load(path.read_text(encoding="utf-8"))
    with tempfile.TemporaryDirectory(dir=root) as folder:
        trial = Path(folder) / "params.yaml"
        shutil.copy2(path, trial)
        override_params(trial.parent, changes)
        load_settings(trial)
        os.replace(trial, path)
    return [
        f"{section}.{key}"
        for section, values in changes.items()
        for key, value in values.items()
        if before[section].get(key) != value
    ]


def tiny_params(root: Path) -> dict[str, dict[str, Any]]:
    """The changes to params.yaml with which the whole chain runs in a few minutes on 40 rows."""
    return dict(YAML(typ="safe").load((root / TINY).read_text(encoding="utf-8")))


def _git(folder: Path, *arguments: str) -> str:
    done = subprocess.run(["git", *arguments], cwd=folder, capture_output=True, text=True, check=False)
    if done.returncode:
        raise PipelineError(f"git {arguments[0]} in {folder}: {' '.join(done.stderr.split())}")
    return done.stdout
