"""Copy a checkout, and change values in its params.yaml without losing the comments."""

from __future__ import annotations

import os
import shutil
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from ruamel.yaml import YAML

from safeclip.core.artifacts import PARAMS
from safeclip.core.errors import SettingsError
from safeclip.release.git import git
from safeclip.settings import load_settings

PARAMETER_SETS = Path("params")


def copy_checkout(root: Path, folder: Path) -> Path:
    """Copy every file of `root` that git does not ignore to `folder`, and make that a git repository.

    That is what a fresh clone would hold if everything here were committed: no results, no cache.
    """
    listed = git(root, "ls-files", "-z", "--cached", "--others", "--exclude-standard")
    for name in filter(None, listed.split("\0")):
        if (root / name).is_file():
            (folder / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy2(root / name, folder / name)
    git(folder, "init", "--quiet")
    return folder


def override_params(root: Path, changes: Mapping[str, Mapping[str, Any]]) -> None:
    """Change values in the sections of `root`/params.yaml; comments and the rest stay."""
    override_values(root / PARAMS, changes)


def override_values(path: Path, changes: Mapping[str, Any]) -> None:
    """Change values in such a file, in nested sections too; lists are replaced, missing keys are made."""
    yaml = YAML()
    params = yaml.load(path.read_text(encoding="utf-8"))
    _merge(params, changes)
    with path.open("w", encoding="utf-8") as file:
        yaml.dump(params, file)


def _merge(tree: Any, changes: Mapping[str, Any]) -> None:
    for key, value in changes.items():
        if isinstance(value, Mapping) and isinstance(tree.get(key), Mapping):
            _merge(tree[key], value)
        else:
            tree[key] = value


def apply_profile(root: Path, name: str) -> list[str]:
    """Write the values of `root`/params/NAME.yaml into params.yaml; return the dotted keys that changed.

    Raises:
        SettingsError: there is no such file or the result would not be valid; nothing is written.
    """
    folder = root / PARAMETER_SETS
    known = sorted(path.stem for path in folder.glob("*.yaml"))
    if name not in known:
        raise SettingsError(f"{name}: no such profile; known are {', '.join(known) or 'none'}")
    path, plain = root / PARAMS, YAML(typ="safe")
    changes = plain.load((folder / f"{name}.yaml").read_text(encoding="utf-8"))
    before = plain.load(path.read_text(encoding="utf-8"))
    with tempfile.TemporaryDirectory(dir=root) as scratch:
        trial = Path(scratch) / PARAMS
        shutil.copy2(path, trial)
        override_values(trial, changes)
        load_settings(trial)
        after = plain.load(trial.read_text(encoding="utf-8"))
        os.replace(trial, path)
    return [
        f"{section}.{key}"
        for section, values in changes.items()
        for key in values
        if before[section].get(key) != after[section][key]
    ]


def tiny_params(root: Path) -> dict[str, dict[str, Any]]:
    """Return the changes to params.yaml with which the whole chain runs in a few minutes on 40 rows."""
    text = (root / PARAMETER_SETS / "tiny.yaml").read_text(encoding="utf-8")
    return dict(YAML(typ="safe").load(text))
