"""A stage in another checkout, on a machine of another work pool: what goes there and what comes back.

Here: `order` pushes the stage's inputs and names the commit and the dvc.lock to work from. There: `carry_out`
takes that commit, pulls the inputs, runs the stage, pushes its outputs and gives back its entry of dvc.lock.
Here again: `take_in` writes the entry into dvc.lock and pulls the outputs, if they were made of the very
inputs that lie here. How the order travels is the flow's business.
"""

from __future__ import annotations

import fcntl
import os
import subprocess
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from safeclip.core.errors import PipelineError
from safeclip.pipeline.graph import Graph, check_name, dependency_changes, load_graph
from safeclip.pipeline.stage_process import run_dvc, run_stage

LOCK = Path("dvc.lock")
_BUSY = Path(".dvc/tmp/placed.lock")
Entry = dict[str, Any]
"""A stage's part of dvc.lock: command, digests of inputs and outputs, params."""


@dataclass(frozen=True)
class Order:
    """Run stage `name` of `commit`, whose inputs are those of `lock` (the text of dvc.lock)."""

    name: str
    commit: str
    lock: str


def check_placement(placement: Mapping[str, str], graph: Graph) -> None:
    """`PipelineError` if a stage that is placed does not exist."""
    stages = {name: needs for name, needs in graph.items() if not name.endswith(".dvc")}
    for name in placement:
        check_name(name, stages)


def order(root: Path, name: str, log: Callable[[str], None]) -> Order:
    """Push what stage `name` needs; `PipelineError` if the checkout holds edits that no commit holds."""
    edited = [path for path in _git(root, "diff", "--name-only", "HEAD").split() if path != str(LOCK)]
    if edited:
        raise PipelineError(
            f"{name}: placed in another pool, which works from commits; commit {', '.join(edited[:3])}"
        )
    if needs := _outputs_of_stages(root, name):
        _dvc(root, "push", needs, log)
    return Order(name, _git(root, "rev-parse", "HEAD").strip(), _lock(root))


def carry_out(root: Path, wanted: Order, log: Callable[[str], None]) -> Entry:
    """Run the stage in this checkout, which is set to the order's commit; one order at a time."""
    with _alone(root):
        _take_commit(root, wanted.commit)
        _write(root / LOCK, wanted.lock)
        _dvc(root, "pull", [*load_graph(root)[wanted.name]], log)
        run_stage(root, wanted.name, log)
        _dvc(root, "push", [wanted.name], log)
        return _stages(root)[wanted.name]


def take_in(root: Path, name: str, entry: Entry, log: Callable[[str], None]) -> None:
    """Make the other checkout's result ours; `PipelineError`, and nothing changes, if its inputs differ."""
    from dvc.lock import make_lock
    from dvc.utils.serialize import dumps_yaml, parse_yaml_for_update

    if differing := dependency_changes(root, name, entry):
        raise PipelineError(f"{name}: the other pool's checkout had other inputs: {', '.join(differing[:3])}")
    folder = root / ".dvc/tmp"
    with make_lock(str(folder / "lock"), tmp_dir=str(folder), wait=True):
        lock = parse_yaml_for_update(_lock(root), str(LOCK))
        lock["stages"][name] = entry
        _write(root / LOCK, dumps_yaml(lock))
    _dvc(root, "pull", [name], log)


def _outputs_of_stages(root: Path, name: str) -> list[str]:
    """The stages that it needs; what a `.dvc` file names is in its remote already."""
    return [need for need in load_graph(root)[name] if not need.endswith(".dvc")]


def _take_commit(root: Path, commit: str) -> None:
    if _run(root, "cat-file", "-e", f"{commit}^{{commit}}").returncode:
        _git(root, "fetch", "--quiet", "origin")
    if _run(root, "cat-file", "-e", f"{commit}^{{commit}}").returncode:
        raise PipelineError(f"{root}: origin has no commit {commit[:12]}; push the branch that holds it")
    if _git(root, "ls-files", str(LOCK)):
        _git(root, "checkout", "--quiet", "HEAD", "--", str(LOCK))
    _git(root, "checkout", "--quiet", "--detach", commit)


def _stages(root: Path) -> dict[str, Entry]:
    from dvc.utils.serialize import load_yaml

    return dict(load_yaml(str(root / LOCK))["stages"])


def _lock(root: Path) -> str:
    """The text of dvc.lock; before the first run there is none."""
    path = root / LOCK
    return path.read_text(encoding="utf-8") if path.is_file() else "schema: '2.0'\nstages: {}\n"


def _dvc(root: Path, verb: str, targets: list[str], log: Callable[[str], None]) -> None:
    what = ", ".join(targets)
    run_dvc(root, [verb, "-q", *targets], f"`dvc {verb}` of {what} failed; is the remote configured?", log)


def _write(path: Path, text: str) -> None:
    partial = path.with_name(f".{path.name}.partial")
    partial.write_text(text, encoding="utf-8")
    os.replace(partial, path)


@contextmanager
def _alone(root: Path) -> Iterator[None]:
    (root / _BUSY).parent.mkdir(parents=True, exist_ok=True)
    with (root / _BUSY).open("w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield


def _git(root: Path, *arguments: str) -> str:
    done = _run(root, *arguments)
    if done.returncode:
        raise PipelineError(f"git {arguments[0]} in {root}: {' '.join(done.stderr.split())}")
    return done.stdout


def _run(root: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(["git", *arguments], cwd=root, capture_output=True, text=True, check=False)
