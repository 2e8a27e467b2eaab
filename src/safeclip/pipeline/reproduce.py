"""A copy of a checkout to run in, as a fresh clone would be: what git tracks or would track, no results."""

from __future__ import annotations

import argparse
import os
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, field
from itertools import repeat
from pathlib import Path
from typing import Any

from ruamel.yaml import YAML

from safeclip.core.errors import PipelineError, SafeclipError, SettingsError
from safeclip.pipeline.graph import load_graph, project_root
from safeclip.settings import load_settings

TINY = Path("params/tiny.yaml")
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
    """Write `root`/params/NAME.yaml into params.yaml; the dotted keys whose values changed.

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


# `make reproduce`: does a fresh clone of the commit, without a cache, give the bytes of dvc.lock again?
#
# The clone runs with another number of workers, another time zone, locale, home and hash seed than a user
# is likely to have. One line a stage; status 1 if an output's digest differs. `--quick` runs two clones on
# 40 rows side by side, each in surroundings of its own, and compares them with each other. What is under
# way goes to standard error.


FOLDER = Path("work/reproduce")
CONVERTED = Path("work/models")
Outputs = dict[str, dict[str, str]]
"""Stage -> path of an output -> its digest in dvc.lock."""


@dataclass(frozen=True)
class Surroundings:
    """What must not matter. `environment` is set on top of the present one."""

    workers: int
    environment: Mapping[str, str] = field(default_factory=dict)


FIRST = Surroundings(1, {"TZ": "Pacific/Kiritimati", "LC_ALL": "C", "PYTHONHASHSEED": "7"})
SECOND = Surroundings(2, {"TZ": "America/St_Johns", "LC_ALL": "C.UTF-8", "PYTHONHASHSEED": "11"})
QUICK = {"one": FIRST, "two": SECOND}


def outputs(lock: Path) -> Outputs:
    """The digests that a dvc.lock records; `PipelineError` if there is no such file."""
    try:
        stages = YAML(typ="safe").load(lock.read_text(encoding="utf-8"))["stages"]
    except FileNotFoundError:
        raise PipelineError(f"{lock}: no such file; run the chain and commit dvc.lock first") from None
    return {
        name: {out["path"]: out["md5"] for out in stage.get("outs", [])} for name, stage in stages.items()
    }


def clone(root: Path, folder: Path, where: Surroundings, *, tiny: bool = False) -> Path:
    """The committed state of `root` in `folder`, with no results and no cache, set for `where`."""
    shutil.rmtree(folder, ignore_errors=True)
    done = subprocess.run(
        ["git", "clone", "--quiet", str(root), str(folder)], capture_output=True, text=True, check=False
    )
    if done.returncode:
        raise PipelineError(f"git clone of {root}: {' '.join(done.stderr.split())}")
    override_params(folder, tiny_params(folder) if tiny else {})
    override_params(folder, {"compute": {"workers": where.workers}})
    return folder


def run_stage(root: Path, stage: str, where: Surroundings) -> None:
    """Run one stage of a clone from nothing; `PipelineError` with its last line if it fails."""
    home = root.parent / f"{root.name}-home"
    home.mkdir(exist_ok=True)
    surroundings = {**where.environment, "HOME": str(home), "PYTHONPATH": str(root / "src")}
    command = [sys.executable, "-m", "safeclip.cli", "stage", stage, "--force"]
    done = subprocess.run(
        command, cwd=root, env={**os.environ, **surroundings}, capture_output=True, text=True, check=False
    )
    if done.returncode:
        raise PipelineError(f"{stage}: {(done.stderr.strip().splitlines() or ['failed'])[-1]}")


def reproduce(root: Path, where: Surroundings, expected: Outputs, say: Callable[[str], None]) -> bool:
    """Run each stage of the clone `root` that `expected` knows, a line each; True if all digests agree."""
    same = True
    for stage in load_graph(root):
        if stage.endswith(".dvc") or stage in expected:
            with _under_way(stage):
                run_stage(root, stage, where)
        if stage in expected:
            same = _compared(stage, outputs(root / "dvc.lock").get(stage, {}), expected[stage], say) and same
    return same


def _compared(
    stage: str, found: dict[str, str], expected: dict[str, str], say: Callable[[str], None]
) -> bool:
    differing = _differing(found, expected)
    say(f"{stage:18} {'DIFFERS: ' + ', '.join(differing) if differing else 'the same bytes'}")
    return not differing


@contextmanager
def _under_way(stage: str) -> Iterator[None]:
    began = time.monotonic()
    print(f"{stage:18} ...", file=sys.stderr, flush=True)
    yield
    print(f"{stage:18} {time.monotonic() - began:.0f} s", file=sys.stderr, flush=True)


def _differing(found: dict[str, str], expected: dict[str, str]) -> list[str]:
    return sorted(path for path in found.keys() | expected.keys() if found.get(path) != expected.get(path))


def quick(root: Path, say: Callable[[str], None]) -> bool:
    """Two clones on 40 rows against each other; `package` is left out, as so few rows pass no gate."""
    pair = {clone(root, root / FOLDER / name, where, tiny=True): where for name, where in QUICK.items()}
    for folder in pair:
        _share_converted_models(root, folder)
    same = True
    with ThreadPoolExecutor(len(pair)) as side_by_side:
        for stage in load_graph(next(iter(pair))):
            if stage == "package":
                continue
            with _under_way(stage):
                list(side_by_side.map(run_stage, pair, repeat(stage), pair.values()))
            if not stage.endswith(".dvc"):
                one, two = (outputs(folder / "dvc.lock")[stage] for folder in pair)
                same = _compared(stage, two, one, say) and same
    return same


def _share_converted_models(root: Path, folder: Path) -> None:
    """What an installed package's weights became in another format here is no result: half a minute saved."""
    if (root / CONVERTED).is_dir():
        (folder / CONVERTED).parent.mkdir(parents=True)
        (folder / CONVERTED).symlink_to(root / CONVERTED)


def main() -> int:
    """0: the same bytes; 1: something differs or failed."""
    parser = argparse.ArgumentParser(prog="python -m safeclip.pipeline.reproduce", description=__doc__)
    parser.add_argument("--quick", action="store_true", help="two clones on 40 rows against each other")
    options = parser.parse_args()

    def say(line: str) -> None:
        print(line, flush=True)

    try:
        root = project_root()
        if options.quick:
            same = quick(root, say)
        else:
            copy = clone(root, root / FOLDER / "one", FIRST)
            same = reproduce(copy, FIRST, outputs(copy / "dvc.lock"), say)
        shutil.rmtree(root / FOLDER)
    except SafeclipError as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    return 0 if same else 1


if __name__ == "__main__":
    sys.exit(main())
