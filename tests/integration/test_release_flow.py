"""A deployed retrain that passes its gate: it asks, suspends without a process, is answered, and promotes."""

from __future__ import annotations

import asyncio
import shutil
from pathlib import Path
from typing import Any

import pytest
from prefect.client.orchestration import get_client
from prefect.settings import PREFECT_API_URL, temporary_settings

from safeclip.registry.releases import production
from safeclip.registry.reviews import all_reviews
from tests.integration.conftest import PrefectServer
from tests.registry.project import Project, make_project
from tests.toy import PROJECT, run

pytestmark = pytest.mark.servers


@pytest.fixture
def deployed(tmp_path: Path, prefect_server: PrefectServer) -> Project:
    """The registry's test project with this checkout's flows, deployed to a process pool."""
    project = make_project(tmp_path)
    shutil.copytree(PROJECT / "flows", project.root / "flows")
    shutil.copy(PROJECT / "prefect.yaml", project.root)
    project.do("git", "add", "-A")
    project.do("git", "commit", "-qm", "flows")
    for command in ("work-pool create --overwrite --type process local", "--no-prompt deploy --all"):
        done = run(project.root, "prefect", *command.split(), PREFECT_API_URL=prefect_server.url)
        assert done.returncode == 0, done.stdout + done.stderr
    return project


def work(project: Project, server: PrefectServer, **environment: str) -> str:
    """One worker that takes what is due and ends."""
    command = ["prefect", "worker", "start", "--pool", "local", "--run-once", "--prefetch-seconds", "1"]
    done = run(project.root, *command, PREFECT_API_URL=server.url, **environment)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout + done.stderr


def runs_of(server: PrefectServer, flow: str) -> list[dict[str, Any]]:
    begun = {"state": {"type": {"not_any_": ["SCHEDULED"]}}}
    wanted: dict[str, Any] = {"flows": {"name": {"any_": [flow]}}, "flow_runs": begun}
    return list(server.ask("/flow_runs/filter", **wanted, sort="START_TIME_DESC"))


def resume(server: PrefectServer, flow_run: str, **answer: object) -> str:
    """Answer a waiting run as the form does; what the server makes of it: ACCEPT or REJECT."""

    async def send() -> str:
        async with get_client() as client:
            result = await client.resume_flow_run(flow_run, run_input=answer)  # type: ignore[arg-type]
            return str(result.status.value)

    with temporary_settings({PREFECT_API_URL: server.url}):
        return asyncio.run(send())


def test_a_deployed_retrain_asks_waits_and_promotes(deployed: Project, prefect_server: PrefectServer) -> None:
    (deployed.root / "package.py").write_text((deployed.root / "package.py").read_text() + "\n")
    (nightly,) = [found for found in prefect_server.ask("/deployments/filter") if found["name"] == "nightly"]
    prefect_server.ask(f"/deployments/{nightly['id']}/create_flow_run", state={"type": "SCHEDULED"})
    log = work(deployed, prefect_server)
    (asked,) = all_reviews(deployed.registry.store)
    assert asked.state == "waiting", log

    log = work(deployed, prefect_server)
    (waiting,) = runs_of(prefect_server, "review")
    assert waiting["state"]["type"] == "PAUSED", log
    assert production(deployed.root) is None

    assert resume(prefect_server, waiting["id"], approve=True, reviewer="alice@example.org") == "REJECT"
    whole = {"approve": True, "reviewer": "alice@example.org", "reason": "numbers are good"}
    assert resume(prefect_server, waiting["id"], **whole) == "ACCEPT"
    key = str(deployed.key("alice"))
    log = work(deployed, prefect_server, SAFECLIP_SIGNING_KEY=key)
    (ended,) = runs_of(prefect_server, "review")
    assert ended["state"]["name"] == "Promoted", log
    release = production(deployed.root)
    assert release is not None
    assert (release.version, release.reason) == ("v0.1.0", "numbers are good")
