"""The scheduled deployment of prefect.yaml, on a real server and with a real worker."""

from __future__ import annotations

import shutil
import time
from pathlib import Path
from typing import Any

from tests.integration.conftest import PrefectServer
from tests.support.toy import PROJECT, run


def test_the_nightly_deployment_is_scheduled_and_a_worker_runs_it(
    toy: Path, prefect_server: PrefectServer
) -> None:
    shutil.copy(PROJECT / "prefect.yaml", toy)
    api = {"PREFECT_API_URL": prefect_server.url}
    for command in ("work-pool create --type process local", "--no-prompt deploy --all"):
        done = run(toy, "prefect", *command.split(), **api)
        assert done.returncode == 0, done.stdout + done.stderr

    (deployment,) = [
        found for found in prefect_server.ask("/deployments/filter") if found["name"] == "nightly"
    ]
    assert [schedule["schedule"]["cron"] for schedule in deployment["schedules"]] == ["0 2 * * *"]
    assert deployment["global_concurrency_limit"]["limit"] == 1
    assert deployment["concurrency_options"]["collision_strategy"] == "ENQUEUE"

    # With a newer SQLAlchemy the scheduler fails on every loop and no run is ever created.
    scheduled = scheduled_runs(prefect_server, deployment["id"])
    assert all(f["expected_start_time"][11:16] == "02:00" and f["auto_scheduled"] for f in scheduled)

    flow_run = prefect_server.ask(
        f"/deployments/{deployment['id']}/create_flow_run", state={"type": "SCHEDULED"}
    )
    worked = run(
        toy,
        *["prefect", "worker", "start", "--pool", "local", "--run-once", "--prefetch-seconds", "1"],
        **api,
    )
    assert worked.returncode == 0, worked.stdout + worked.stderr
    (ended,) = prefect_server.ask("/flow_runs/filter", flow_runs={"id": {"any_": [flow_run["id"]]}})
    assert ended["state"]["type"] == "COMPLETED", worked.stdout + worked.stderr
    assert prefect_server.task_states(flow_run["id"])["package"] == "Completed"


def scheduled_runs(server: PrefectServer, deployment: str, seconds: float = 60.0) -> list[dict[str, Any]]:
    """The runs that the server's scheduler created for a deployment; waits for the first."""
    wanted = {
        "deployments": {"id": {"any_": [deployment]}},
        "flow_runs": {"state": {"type": {"any_": ["SCHEDULED"]}}},
    }
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        if found := server.ask("/flow_runs/filter", **wanted):
            return found
        time.sleep(0.5)
    raise AssertionError("the scheduler created no run")
