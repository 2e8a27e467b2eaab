"""`make reproduce`: does a fresh clone of the commit, without a cache, give the bytes of dvc.lock again?

The clone runs with another number of workers, another time zone, locale, home and hash seed than a user is
likely to have. It prints one line per stage, and ends with status 1 if an output's digest differs. `--quick`
runs two clones on 40 rows side by side, each in surroundings of its own, and compares them with each other.
Progress goes to standard error.
"""

from __future__ import annotations

import argparse
import os
import shutil
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, field
from itertools import repeat
from pathlib import Path

from ruamel.yaml import YAML

from safeclip.core.artifacts import WORK
from safeclip.core.errors import PipelineError, SafeclipError
from safeclip.pipeline.checkout import override_params, tiny_params
from safeclip.pipeline.graph import load_graph, project_root
from safeclip.release.git import git

FOLDER = WORK / "reproduce"
CONVERTED_MODELS = WORK / "models"
Outputs = dict[str, dict[str, str]]
"""Stage -> path of an output -> its digest in dvc.lock."""


@dataclass(frozen=True)
class Surroundings:
    """Circumstances that must not change a byte; `environment` is set on top of the present one."""

    workers: int
    environment: Mapping[str, str] = field(default_factory=dict)


FIRST = Surroundings(1, {"TZ": "Pacific/Kiritimati", "LC_ALL": "C", "PYTHONHASHSEED": "7"})
SECOND = Surroundings(2, {"TZ": "America/St_Johns", "LC_ALL": "C.UTF-8", "PYTHONHASHSEED": "11"})
QUICK = {"one": FIRST, "two": SECOND}


def outputs(lock: Path) -> Outputs:
    """Return the digests that a dvc.lock records; `PipelineError` if there is no such file."""
    try:
        stages = YAML(typ="safe").load(lock.read_text(encoding="utf-8"))["stages"]
    except FileNotFoundError:
        raise PipelineError(f"{lock}: no such file; run the chain and commit dvc.lock first") from None
    return {
        name: {out["path"]: out["md5"] for out in stage.get("outs", [])} for name, stage in stages.items()
    }


def clone(root: Path, folder: Path, where: Surroundings, *, tiny: bool = False) -> Path:
    """Clone the committed state of `root` to `folder`, without results or cache, set up for `where`."""
    shutil.rmtree(folder, ignore_errors=True)
    git(root, "clone", "--quiet", str(root), str(folder))
    override_params(folder, tiny_params(folder) if tiny else {})
    override_params(folder, {"compute": {"workers": where.workers}})
    return folder


def run_from_nothing(root: Path, stage: str, where: Surroundings) -> None:
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
    """Run each stage of the clone `root` that `expected` knows; return whether all digests agree."""
    same = True
    for stage in load_graph(root):
        if stage.endswith(".dvc") or stage in expected:
            with _timed(stage):
                run_from_nothing(root, stage, where)
        if stage in expected:
            same = _compared(stage, outputs(root / "dvc.lock").get(stage, {}), expected[stage], say) and same
    return same


def _compared(
    stage: str, actual: dict[str, str], expected: dict[str, str], say: Callable[[str], None]
) -> bool:
    paths = actual.keys() | expected.keys()
    differing = sorted(path for path in paths if actual.get(path) != expected.get(path))
    say(f"{stage:18} {'DIFFERS: ' + ', '.join(differing) if differing else 'the same bytes'}")
    return not differing


@contextmanager
def _timed(stage: str) -> Iterator[None]:
    began = time.monotonic()
    print(f"{stage:18} ...", file=sys.stderr, flush=True)
    yield
    print(f"{stage:18} {time.monotonic() - began:.0f} s", file=sys.stderr, flush=True)


def quick(root: Path, say: Callable[[str], None]) -> bool:
    """Compare two clones on 40 rows with each other; `package` is left out, as so few rows pass no gate."""
    pair = {clone(root, root / FOLDER / name, where, tiny=True): where for name, where in QUICK.items()}
    for folder in pair:
        _share_converted_models(root, folder)
    same = True
    with ThreadPoolExecutor(len(pair)) as side_by_side:
        for stage in load_graph(next(iter(pair))):
            if stage == "package":
                continue
            with _timed(stage):
                list(side_by_side.map(run_from_nothing, pair, repeat(stage), pair.values()))
            if not stage.endswith(".dvc"):
                one, two = (outputs(folder / "dvc.lock")[stage] for folder in pair)
                same = _compared(stage, two, one, say) and same
    return same


def _share_converted_models(root: Path, folder: Path) -> None:
    # An installed package's weights in another format are no result; sharing them saves half a minute.
    if (root / CONVERTED_MODELS).is_dir():
        (folder / CONVERTED_MODELS).parent.mkdir(parents=True)
        (folder / CONVERTED_MODELS).symlink_to(root / CONVERTED_MODELS)


def main() -> int:
    """Compare; 0: the same bytes, 1: something differs or failed."""
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
