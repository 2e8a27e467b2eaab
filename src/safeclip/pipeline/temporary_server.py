"""Serve a Prefect API for the length of one run, where no Prefect server is configured.

Prefect would start one by itself, but only after its own import: 11 s for a flow in which nothing is stale.
This is the same server, started before that import and beside it: 5 s. Its database lies in work/prefect/.
"""

from __future__ import annotations

import os
import socket
import subprocess
import sys
import time
import tomllib
import urllib.error
import urllib.request
from collections.abc import Mapping
from pathlib import Path

from safeclip.core.artifacts import WORK
from safeclip.core.errors import PipelineError
from safeclip.core.processes import PARENT, die_with_starter

_FOLDER = WORK / "prefect"
_START_SECONDS = 120.0


class TemporaryServer:
    """A server that starts at once; `ready` waits for it, it ends with `stop` or with this process."""

    def __init__(self, root: Path) -> None:
        self._folder = root / _FOLDER
        self._folder.mkdir(parents=True, exist_ok=True)
        self._port = _free_port()
        self.api_url = f"http://127.0.0.1:{self._port}/api"
        with self._log.open("wb") as log:
            self._process = subprocess.Popen(
                [sys.executable, "-m", "safeclip.pipeline.temporary_server", str(self._port)],
                env={**os.environ, **self._environment()},
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                start_new_session=True,
            )

    @property
    def _log(self) -> Path:
        return self._folder / "server.log"

    def _environment(self) -> dict[str, str]:
        return {
            PARENT: str(os.getpid()),
            "PREFECT_SERVER_DATABASE_CONNECTION_URL": f"sqlite+aiosqlite:///{self._folder / 'prefect.db'}",
            "PREFECT_SERVER_UI_ENABLED": "false",
            # Prefect's own switches: no scheduler and other services for a server of minutes.
            "PREFECT__SERVER_EPHEMERAL": "1",
            "PREFECT__SERVER_FINAL": "1",
        }

    def ready(self) -> None:
        """Wait until the API answers; `PipelineError` with where to look if it does not."""
        deadline = time.monotonic() + _START_SECONDS
        while not self._answers():
            if self._process.poll() is not None or time.monotonic() > deadline:
                raise PipelineError(f"the temporary Prefect server did not start; {self._log} says why")
            time.sleep(0.05)

    def _answers(self) -> bool:
        try:
            with urllib.request.urlopen(f"{self.api_url}/health", timeout=5) as answer:
                return bool(answer.status == 200)
        except (urllib.error.URLError, OSError):
            return False

    def stop(self) -> None:
        """End the server; kill it if it takes more than five seconds."""
        self._process.terminate()
        try:
            self._process.wait(5)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()


def api_is_configured(environment: Mapping[str, str] = os.environ) -> bool:
    """Whether the user points Prefect at a server: PREFECT_API_URL, or the active profile.

    Read from the files, because asking Prefect means importing it (2 s).
    """
    if environment.get("PREFECT_API_URL"):
        return True
    home = Path(environment.get("PREFECT_HOME") or Path.home() / ".prefect")
    try:
        profiles = tomllib.loads((home / "profiles.toml").read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return False
    active = environment.get("PREFECT_PROFILE") or profiles.get("active", "")
    return bool(profiles.get("profiles", {}).get(active, {}).get("PREFECT_API_URL"))


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def _serve(port: int) -> None:
    die_with_starter()
    import uvicorn

    uvicorn.run(
        "prefect.server.api.server:create_app", factory=True, host="127.0.0.1", port=port, log_level="error"
    )


if __name__ == "__main__":
    _serve(int(sys.argv[1]))
