"""Prefect with a real PostgreSQL, as compose.yaml sets it up: schedules and runs live in that database."""

from __future__ import annotations

import asyncio
import os
import pwd
import shutil
import subprocess
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import asyncpg
import pytest

from tests.integration.conftest import free_port, serving
from tests.integration.test_deployment import scheduled_runs
from tests.support.servers import need_command, not_run
from tests.support.toy import PROJECT, run

pytestmark = pytest.mark.servers
INSTALL = "apt-get install postgresql (and its bin folder on PATH)"


@pytest.fixture
def postgres() -> Iterator[str]:
    """A new cluster on a free loopback port; its address for asyncpg. PostgreSQL refuses to run as root."""
    initdb, server = need_command("initdb", INSTALL), need_command("postgres", INSTALL)
    folder = Path(tempfile.mkdtemp(prefix="safeclip-postgres-"))
    owner = None
    if os.getuid() == 0:
        if not (found := [user for user in pwd.getpwall() if user.pw_name in ("postgres", "nobody")]):
            not_run("PostgreSQL does not run as root, and there is no other user")
        owner = found[-1].pw_uid
        os.chown(folder, owner, -1)
    port = free_port()
    made = subprocess.run(
        [initdb, "-D", folder / "db", "-U", "prefect", "--auth=trust", "--no-sync"],
        user=owner,
        cwd=folder,
        capture_output=True,
        text=True,
    )
    assert made.returncode == 0, made.stderr
    options = ["-p", str(port), "-c", "listen_addresses=127.0.0.1", "-k", str(folder)]
    with (folder / "server.log").open("wb") as log:
        process = subprocess.Popen(
            [server, "-D", folder / "db", *options], user=owner, cwd=folder, stdout=log, stderr=log
        )
    try:
        address = f"prefect@127.0.0.1:{port}/postgres"
        wait_for(f"postgresql://{address}", process, folder / "server.log")
        yield address
    finally:
        process.terminate()
        process.wait(30)
        shutil.rmtree(folder)


def wait_for(address: str, process: subprocess.Popen[bytes], log: Path) -> None:
    for _ in range(240):
        assert process.poll() is None, log.read_text()
        try:
            count(address, "pg_database")
            return
        except (OSError, asyncpg.PostgresError):
            time.sleep(0.25)
    raise AssertionError(log.read_text())


def count(address: str, table: str) -> int:
    async def ask() -> int:
        connection = await asyncpg.connect(address)
        try:
            return int(await connection.fetchval(f"SELECT count(*) FROM {table}"))
        finally:
            await connection.close()

    return asyncio.run(ask())


def test_schedules_and_runs_live_in_postgresql(
    postgres: str, toy: Path, tmp_path_factory: pytest.TempPathFactory
) -> None:
    url = f"postgresql+asyncpg://{postgres}"
    with serving(tmp_path_factory.mktemp("prefect"), PREFECT_SERVER_DATABASE_CONNECTION_URL=url) as server:
        shutil.copy(PROJECT / "prefect.yaml", toy)
        api = {"PREFECT_API_URL": server.url}
        for command in ("work-pool create --type process local", "--no-prompt deploy --all"):
            done = run(toy, "prefect", *command.split(), **api)
            assert done.returncode == 0, done.stdout + done.stderr
        (nightly,) = [found for found in server.ask("/deployments/filter") if found["name"] == "nightly"]
        assert scheduled_runs(server, nightly["id"])
        done = run(toy, "python", "flows/retrain.py", **api)
        assert done.returncode == 0, done.stdout + done.stderr
        states = server.task_states(server.last_flow_run()["id"])
        assert states["package"] == "Completed"
    assert count(f"postgresql://{postgres}", "task_run") == len(states)
    assert count(f"postgresql://{postgres}", "deployment") >= 2
