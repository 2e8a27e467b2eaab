"""Real servers and toy projects, shared by the tests of whole flows."""

from __future__ import annotations

import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import httpx
import pytest

from tests.release.project import Project
from tests.support.toy import PROJECT, environment_for, make_toy, run

_DYING_WITH_US = """
import os, signal, sys
from safeclip.core.processes import die_with_parent
die_with_parent(signal.SIGTERM)
os.execvp("prefect", ["prefect", *sys.argv[1:]])
"""


@dataclass(frozen=True)
class PrefectServer:
    """A running `prefect server`; `url` is its API."""

    url: str

    def ask(self, path: str, **body: Any) -> Any:
        """POST to the API and return what it answers."""
        answer = httpx.post(f"{self.url}{path}", json=body, timeout=60)
        answer.raise_for_status()
        return answer.json()

    def last_flow_run(self) -> dict[str, Any]:
        """The run that began last; those that are only scheduled do not count."""
        begun = {"state": {"type": {"not_any_": ["SCHEDULED"]}}}
        runs = self.ask("/flow_runs/filter", flow_runs=begun, sort="START_TIME_DESC", limit=1)
        return dict(runs[0])

    def task_states(self, flow_run_id: str) -> dict[str, str]:
        """Task name -> name of its state."""
        tasks = self.ask("/task_runs/filter", flow_runs={"id": {"any_": [flow_run_id]}})
        return {task["name"]: task["state"]["name"] for task in tasks}


@pytest.fixture(scope="session")
def prefect_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[PrefectServer]:
    """One server for all tests, with SQLite."""
    with serving(tmp_path_factory.mktemp("prefect")) as server:
        yield server


@dataclass(frozen=True)
class Webhook:
    """A server that keeps what it is told, in the order of arrival."""

    url: str
    heard: list[dict[str, Any]]

    @property
    def events(self) -> list[str]:
        return [message["event"] for message in self.heard]


@pytest.fixture
def webhook() -> Iterator[Webhook]:
    heard: list[dict[str, Any]] = []

    class Listener(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            heard.append(json.loads(self.rfile.read(int(self.headers["content-length"]))))
            self.send_response(204)
            self.end_headers()

        def log_message(self, format: str, *args: object) -> None:
            """Nothing to the console."""

    with ThreadingHTTPServer(("127.0.0.1", 0), Listener) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield Webhook(f"http://127.0.0.1:{server.server_port}/", heard)
        server.shutdown()


def deploy(project: Project, server: PrefectServer) -> None:
    """This checkout's flows and deployments in the registry's test project, with a process pool."""
    shutil.copytree(PROJECT / "flows", project.root / "flows")
    shutil.copy(PROJECT / "prefect.yaml", project.root)
    project.do("git", "add", "-A")
    project.do("git", "commit", "-qm", "flows")
    for command in ("work-pool create --overwrite --type process local", "--no-prompt deploy --all"):
        done = run(project.root, "prefect", *command.split(), PREFECT_API_URL=server.url)
        assert done.returncode == 0, done.stdout + done.stderr


def order(server: PrefectServer, deployment: str, **parameters: object) -> None:
    """Have a run of a deployment scheduled for now."""
    (found,) = [one for one in server.ask("/deployments/filter") if one["name"] == deployment]
    due = {"state": {"type": "SCHEDULED"}, "parameters": parameters}
    server.ask(f"/deployments/{found['id']}/create_flow_run", **due)


def work(project: Project, server: PrefectServer, **environment: str) -> str:
    """One worker that takes what is due and ends."""
    command = ["prefect", "worker", "start", "--pool", "local", "--run-once", "--prefetch-seconds", "1"]
    done = run(project.root, *command, timeout=600, PREFECT_API_URL=server.url, **environment)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout + done.stderr


def runs_of(server: PrefectServer, flow: str) -> list[dict[str, Any]]:
    """The runs of a flow that have begun, the last first."""
    begun = {"state": {"type": {"not_any_": ["SCHEDULED"]}}}
    wanted: dict[str, Any] = {"flows": {"name": {"any_": [flow]}}, "flow_runs": begun}
    return list(server.ask("/flow_runs/filter", **wanted, sort="START_TIME_DESC"))


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


@contextmanager
def serving(folder: Path, **settings: str) -> Iterator[PrefectServer]:
    """`prefect server start` on a free port with a home of its own, stopped at the end."""
    port = free_port()
    environment = environment_for(folder) | {
        "PREFECT_SERVER_UI_ENABLED": "false",
        "PREFECT_SERVER_SERVICES_SCHEDULER_LOOP_SECONDS": "2",
        **settings,
    }
    command = [
        sys.executable,
        "-c",
        _DYING_WITH_US,
        "server",
        "start",
        "--host",
        "127.0.0.1",
        "--port",
        str(port),
    ]
    with (folder / "server.log").open("wb") as log:
        process = subprocess.Popen(command, env=environment, stdout=log, stderr=log, start_new_session=True)
    try:
        _wait_for(f"http://127.0.0.1:{port}/api", process)
        yield PrefectServer(f"http://127.0.0.1:{port}/api")
    finally:
        os.killpg(process.pid, signal.SIGTERM)
        try:
            process.wait(10)
        except subprocess.TimeoutExpired:
            os.killpg(process.pid, signal.SIGKILL)
            process.wait()


def _wait_for(url: str, process: subprocess.Popen[bytes]) -> None:
    deadline = time.monotonic() + 120
    while time.monotonic() < deadline and process.poll() is None:
        try:
            if httpx.get(f"{url}/health").status_code == 200:
                return
        except httpx.TransportError:
            time.sleep(0.1)
    pytest.fail("the Prefect server did not start")


@pytest.fixture(scope="session")
def pristine_toy(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_toy(tmp_path_factory.mktemp("pristine") / "toy")


@pytest.fixture
def toy(tmp_path: Path, pristine_toy: Path) -> Path:
    """A fresh toy project in which nothing has run."""
    return Path(shutil.copytree(pristine_toy, tmp_path / "toy"))
