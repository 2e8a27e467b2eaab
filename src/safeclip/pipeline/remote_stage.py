"""Run a stage in another checkout, on a machine of another Prefect work pool.

1. Here: `prepare_request` pushes the stage's inputs and names the commit and the dvc.lock to work from.
2. There: `run_remote` takes that commit, pulls the inputs, runs the stage, pushes its outputs and returns the
   stage's entry of dvc.lock.
3. Here again: `import_result` writes the entry into dvc.lock and pulls the outputs, if they were made of the
   very inputs that lie here.

`send` does all three, through a deployment of the flow `remote-stage` (flows/remote_stage.py).
"""

from __future__ import annotations

import fcntl
import json
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

from safeclip.core.errors import PipelineError
from safeclip.core.files import write_text
from safeclip.pipeline.graph import Graph, check_name, dependency_changes, load_graph
from safeclip.pipeline.stage_process import run_dvc, run_stage
from safeclip.release.git import git, object_of

if TYPE_CHECKING:
    from prefect.client.schemas.objects import FlowRun

FLOW = "remote-stage"  # deployed in other checkouts, under the name of their pool
LOCK = Path("dvc.lock")
_BUSY = Path(".dvc/tmp/remote_stage.lock")
Entry = dict[str, Any]
"""A stage's part of dvc.lock: command, digests of inputs and outputs, params."""
Log = Callable[[str], None]
"""Takes one line of a stage's output."""


@dataclass(frozen=True)
class StageRequest:
    """Run stage `name` of `commit` with the inputs in `lock`, the text of a dvc.lock."""

    name: str
    commit: str
    lock: str


def check_placement(placement: Mapping[str, str], graph: Graph) -> None:
    """Raise a `PipelineError` if a stage that params.yaml sends to a pool does not exist."""
    stages = {name: needs for name, needs in graph.items() if not name.endswith(".dvc")}
    for name in placement:
        check_name(name, stages)


def send(root: Path, name: str, pool: str, log: Log) -> None:
    """Run a stage on a worker of a Prefect work pool and import its result.

    Raises:
        PipelineError: the pool has no such deployment, the stage failed there, or its inputs differ.
    """
    from prefect.client.orchestration import get_client
    from prefect.client.schemas.filters import ArtifactFilter, ArtifactFilterFlowRunId
    from prefect.deployments import run_deployment
    from prefect.exceptions import ObjectNotFound

    request = prepare_request(root, name, log)
    log(f"waits for a worker of the pool {pool}")
    try:
        run = cast("FlowRun", run_deployment(f"{FLOW}/{pool}", parameters=asdict(request), poll_interval=1))
    except ObjectNotFound:
        deploy = f"prefect deploy flows/remote_stage.py:remote_stage --name {pool} --pool {pool}"
        raise PipelineError(f"{name}: no deployment {FLOW}/{pool}; in its checkout: {deploy}") from None
    if run.state is None or not run.state.is_completed():
        raise PipelineError(f"{name} in the pool {pool}: {run.state and run.state.message}")
    with get_client(sync_client=True) as client:
        of_run = ArtifactFilter(flow_run_id=ArtifactFilterFlowRunId(any_=[run.id]))
        (artifact,) = client.read_artifacts(artifact_filter=of_run)
    import_result(root, name, dict(json.loads(str(artifact.data))), log)


def prepare_request(root: Path, name: str, log: Log) -> StageRequest:
    """Push what stage `name` needs; `PipelineError` if the checkout holds edits that no commit holds."""
    edited = [path for path in git(root, "diff", "--name-only", "HEAD").split() if path != str(LOCK)]
    if edited:
        raise PipelineError(
            f"{name}: placed in another pool, which works from commits; commit {', '.join(edited[:3])}"
        )
    # What a .dvc file names is in its remote already.
    if needs := [need for need in load_graph(root)[name] if not need.endswith(".dvc")]:
        _dvc(root, "push", needs, log)
    return StageRequest(name, git(root, "rev-parse", "HEAD").strip(), _lock_text(root))


def run_remote(root: Path, request: StageRequest, log: Log) -> Entry:
    """Run the stage in this checkout, which is set to the request's commit; one request at a time."""
    with _one_at_a_time(root):
        _check_out(root, request.commit)
        write_text(root / LOCK, request.lock)
        _dvc(root, "pull", [*load_graph(root)[request.name]], log)
        run_stage(root, request.name, log)
        _dvc(root, "push", [request.name], log)
        return _entry(root, request.name)


def import_result(root: Path, name: str, entry: Entry, log: Log) -> None:
    """Make the other checkout's result ours; `PipelineError`, and nothing changes, if its inputs differ."""
    from dvc.lock import make_lock
    from dvc.utils.serialize import dumps_yaml, parse_yaml_for_update

    if differing := dependency_changes(root, name, entry):
        raise PipelineError(f"{name}: the other pool's checkout had other inputs: {', '.join(differing[:3])}")
    folder = root / ".dvc/tmp"
    with make_lock(str(folder / "lock"), tmp_dir=str(folder), wait=True):
        lock = parse_yaml_for_update(_lock_text(root), str(LOCK))
        lock["stages"][name] = entry
        write_text(root / LOCK, dumps_yaml(lock))
    _dvc(root, "pull", [name], log)


def _check_out(root: Path, commit: str) -> None:
    """Set the checkout to a commit, fetched from origin if it is not here; an edited dvc.lock is dropped."""
    name = f"{commit}^{{commit}}"
    if object_of(root, name) is None:
        git(root, "fetch", "--quiet", "origin")
    if object_of(root, name) is None:
        raise PipelineError(f"{root}: origin has no commit {commit[:12]}; push the branch that holds it")
    if git(root, "ls-files", str(LOCK)):
        git(root, "checkout", "--quiet", "HEAD", "--", str(LOCK))
    git(root, "checkout", "--quiet", "--detach", commit)


def _entry(root: Path, name: str) -> Entry:
    from dvc.utils.serialize import load_yaml

    return dict(load_yaml(str(root / LOCK))["stages"][name])


def _lock_text(root: Path) -> str:
    """Read dvc.lock; before the first run there is none."""
    path = root / LOCK
    return path.read_text(encoding="utf-8") if path.is_file() else "schema: '2.0'\nstages: {}\n"


def _dvc(root: Path, verb: str, targets: list[str], log: Log) -> None:
    failure = f"`dvc {verb}` of {', '.join(targets)} failed; is the remote configured?"
    run_dvc(root, [verb, "-q", *targets], failure, log)


@contextmanager
def _one_at_a_time(root: Path) -> Iterator[None]:
    (root / _BUSY).parent.mkdir(parents=True, exist_ok=True)
    with (root / _BUSY).open("w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield
