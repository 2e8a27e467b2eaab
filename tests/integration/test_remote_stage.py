"""A stage placed in another work pool: two process pools in clones of their own, one git and one remote."""

from __future__ import annotations

import shutil
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from safeclip.pipeline.checkout import override_params
from tests.integration.conftest import PrefectServer
from tests.support.toy import PROJECT, environment_for, run

pytestmark = pytest.mark.servers
AUTHOR = ("-c", "user.name=test", "-c", "user.email=test@example.org")


def do(folder: Path, *command: str, **environment: str) -> str:
    done = run(folder, *command, **environment)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


@pytest.fixture
def clones(toy: Path, tmp_path: Path) -> tuple[Path, Path]:
    """Two clones of one repository, with one DVC remote between them; neither has run anything."""
    shutil.copytree(PROJECT / "flows", toy / "flows", dirs_exist_ok=True)
    override_params(toy, {"placement": {"left": "gpu-pool"}})
    (toy / ".gitignore").write_text("work/\nresults/\n*.pid\n*.runs\n/data\n")
    do(toy, "dvc", "remote", "add", "-q", "-d", "shared", str(tmp_path / "remote"))
    do(toy, "dvc", "push", "-q", "data.dvc")
    do(toy, "git", "add", "-A")
    do(toy, "git", *AUTHOR, "commit", "-qm", "toy")
    here, there = tmp_path / "here", tmp_path / "there"
    for clone in (here, there):
        do(tmp_path, "git", "clone", "-q", str(toy), str(clone))
    return here, there


@contextmanager
def worker(clone: Path, pool: str, server: PrefectServer) -> Iterator[None]:
    """A worker of `pool` that stands in `clone`."""
    environment = environment_for(clone) | {"PREFECT_API_URL": server.url}
    command = ["prefect", "worker", "start", "--pool", pool, "--prefetch-seconds", "1"]
    with (clone.parent / f"{pool}.log").open("wb") as log:
        process = subprocess.Popen(command, cwd=clone, env=environment, stdout=log, stderr=log)
    try:
        yield
    finally:
        process.terminate()
        try:
            process.wait(20)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()


def test_a_placed_stage_runs_in_the_other_clone_and_its_result_comes_back(
    clones: tuple[Path, Path], prefect_server: PrefectServer
) -> None:
    here, there = clones
    api = {"PREFECT_API_URL": prefect_server.url}
    refused = run(here, "python", "flows/retrain.py", **api)
    assert refused.returncode == 1
    assert (
        "no deployment remote-stage/gpu-pool; in its checkout: prefect deploy flows/remote_stage.py"
        in refused.stderr
    )

    do(there, "prefect", "work-pool", "create", "--type", "process", "gpu-pool", **api)
    flow = "flows/remote_stage.py:remote_stage"
    do(there, "prefect", "--no-prompt", "deploy", flow, "--name", "gpu-pool", "--pool", "gpu-pool", **api)
    with worker(there, "gpu-pool", prefect_server):
        do(here, "python", "flows/retrain.py", **api)
        assert (there / "left.runs").is_file()
        assert not (here / "left.runs").exists()
        assert (here / "right.runs").is_file()
        assert not (there / "right.runs").exists()
        assert (here / "results/left/out.txt").read_text() == (there / "results/left/out.txt").read_text()
        assert do(here, "dvc", "status").strip() == "Data and pipelines are up to date."
        assert (here / "results/package/out.txt").is_file()

        (here / "data" / "words.txt").write_text("edited\n")
        do(here, "dvc", "add", "-q", "data")
        edited = run(here, "python", "flows/retrain.py", **api)
        assert edited.returncode == 1
        assert "commit data.dvc" in edited.stderr
