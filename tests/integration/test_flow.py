"""The flow's behaviour on a toy chain: real DVC, a real Prefect server, stages of a few lines."""

from __future__ import annotations

import os
import signal
import subprocess
import time
from pathlib import Path

import pytest

from tests.integration.conftest import PrefectServer
from tests.support.toy import environment_for, run, set_params

STAGES = {"data.dvc", "left", "right", "gate", "report", "package"}


def retrain(folder: Path, server: PrefectServer) -> subprocess.CompletedProcess[str]:
    return run(folder, "safeclip", "run", PREFECT_API_URL=server.url)


def spans(folder: Path, stage: str) -> list[tuple[float, float]]:
    """When each finished run of a stage began and ended."""
    lines = (folder / f"{stage}.runs").read_text().splitlines()
    return [(float(line.split()[0]), float(line.split()[1])) for line in lines]


def test_runs_every_stage_then_shows_each_as_cached(toy: Path, prefect_server: PrefectServer) -> None:
    first = retrain(toy, prefect_server)
    assert first.returncode == 0, first.stderr
    assert "verdict: PASSED" in first.stdout
    assert "Task run 'left' - left begins" in first.stderr

    second = retrain(toy, prefect_server)
    assert second.returncode == 0, second.stderr
    flow_run = prefect_server.last_flow_run()
    assert flow_run["state"]["type"] == "COMPLETED"
    assert prefect_server.task_states(flow_run["id"]) == dict.fromkeys(STAGES, "Cached")
    assert len(spans(toy, "left")) == 1

    artifacts = prefect_server.ask("/artifacts/filter", flow_runs={"id": {"any_": [flow_run["id"]]}})
    by_key = {artifact["key"]: artifact["data"] for artifact in artifacts}
    assert "| left | Cached |" in by_key["summary"]
    assert (toy / "results/report/index.html").as_uri() in by_key["report"]


def test_independent_stages_run_side_by_side(toy: Path, prefect_server: PrefectServer) -> None:
    set_params(toy, left={"seconds": 6}, right={"seconds": 6})
    assert retrain(toy, prefect_server).returncode == 0
    (left_began, left_ended), (right_began, right_ended) = spans(toy, "left")[0], spans(toy, "right")[0]
    assert max(left_began, right_began) < min(left_ended, right_ended)


def test_a_changed_param_reruns_its_stage_and_what_follows_from_it(
    toy: Path, prefect_server: PrefectServer
) -> None:
    assert retrain(toy, prefect_server).returncode == 0
    set_params(toy, gate={"passes": True, "bound": 0.5})
    assert retrain(toy, prefect_server).returncode == 0
    states = prefect_server.task_states(prefect_server.last_flow_run()["id"])
    # The verdict came out as it was, so that nothing after the gate is stale.
    assert states == dict.fromkeys(STAGES, "Cached") | {"gate": "Completed"}


def test_a_failed_gate_skips_package_and_ends_with_status_2(toy: Path, prefect_server: PrefectServer) -> None:
    set_params(toy, gate={"passes": False})
    result = retrain(toy, prefect_server)
    assert result.returncode == 2
    assert "verdict: FAILED" in result.stdout
    assert not (toy / "results/package").exists()
    flow_run = prefect_server.last_flow_run()
    assert (flow_run["state"]["type"], flow_run["state"]["name"]) == ("FAILED", "GateFailed")
    assert prefect_server.task_states(flow_run["id"]) == dict.fromkeys(STAGES, "Completed") | {
        "data.dvc": "Cached",
        "package": "Skipped",
    }


def test_a_failing_stage_is_one_line_and_stops_what_needs_it(
    toy: Path, prefect_server: PrefectServer
) -> None:
    set_params(toy, left={"fails": True})
    result = retrain(toy, prefect_server)
    assert result.returncode == 1
    assert result.stderr.splitlines()[-1] == "error: left: input 7 is broken; mend it"
    assert "Traceback" not in result.stderr
    states = prefect_server.task_states(prefect_server.last_flow_run()["id"])
    assert (states["left"], states["right"], states["gate"]) == ("Failed", "Completed", "NotReady")


@pytest.mark.parametrize("sent", [signal.SIGTERM, signal.SIGINT])
def test_a_stage_dies_with_its_flow(toy: Path, prefect_server: PrefectServer, sent: signal.Signals) -> None:
    flow, stage = begin_a_long_stage(toy, prefect_server)
    flow.send_signal(sent)
    assert flow.wait(60) != 0
    assert _gone(stage, within=20)


def test_after_kill_9_nothing_is_left_running_and_the_next_run_recovers(
    toy: Path, prefect_server: PrefectServer
) -> None:
    flow, stage = begin_a_long_stage(toy, prefect_server)
    flow.kill()
    assert flow.wait(60) != 0
    assert _gone(stage, within=20)

    set_params(toy)
    assert retrain(toy, prefect_server).returncode == 0


def begin_a_long_stage(folder: Path, server: PrefectServer) -> tuple[subprocess.Popen[bytes], int]:
    """A flow in the middle of the stage `left`, and that stage's process id."""
    set_params(folder, left={"seconds": 300})
    environment = environment_for(folder) | {"PREFECT_API_URL": server.url}
    quiet = subprocess.DEVNULL
    flow = subprocess.Popen(
        ["safeclip", "run"],
        cwd=folder,
        env=environment,
        stdout=quiet,
        stderr=quiet,
        # a shell starts its background jobs with SIGINT ignored, and the tests may run in one
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
    )
    return flow, _pid_of(folder / "left.pid")


def test_works_without_any_server(toy: Path) -> None:
    first = run(toy, "safeclip", "run")
    assert first.returncode == 0, first.stderr
    again = run(toy, "safeclip", "run")
    assert again.returncode == 0, again.stderr
    assert again.stderr.count("Cached(") == len(STAGES)
    assert "Error" not in again.stderr


def test_missing_data_is_pulled_from_the_remote_that_data_dvc_names(
    toy: Path, prefect_server: PrefectServer
) -> None:
    assert run(toy, "dvc", "remote", "add", "bundled", "dvcstore").returncode == 0
    (toy / "data.dvc").write_text((toy / "data.dvc").read_text().rstrip() + "\n  remote: bundled\n")
    assert run(toy, "dvc", "push", "data.dvc").returncode == 0
    for name in ("data", ".dvc/cache"):
        assert run(toy, "rm", "-r", name).returncode == 0
    result = retrain(toy, prefect_server)
    assert result.returncode == 0, result.stderr
    assert (toy / "data/words.txt").read_text() == "words\n"


def test_data_changed_by_hand_is_not_overwritten(toy: Path, prefect_server: PrefectServer) -> None:
    (toy / "data/words.txt").write_text("my own words\n")
    result = retrain(toy, prefect_server)
    assert result.returncode == 1
    assert "`dvc commit data.dvc` keeps what you changed in data/" in result.stderr.splitlines()[-1]
    assert (toy / "data/words.txt").read_text() == "my own words\n"


def _pid_of(path: Path, seconds: float = 60.0) -> int:
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        if path.is_file() and (text := path.read_text()):
            return int(text)
        time.sleep(0.1)
    raise AssertionError(f"{path.name}: the stage did not begin")


def _gone(pid: int, within: float) -> bool:
    deadline = time.monotonic() + within
    while time.monotonic() < deadline:
        try:
            os.kill(pid, 0)
        except ProcessLookupError:
            return True
        time.sleep(0.1)
    return False
