"""The service under stress: overload is refused and passes, a killed worker comes back, shutdown waits."""

import asyncio
import os
import signal
import sys
import time
from pathlib import Path

import httpx
import psutil
import pytest

from .conftest import ROOT, TAR, served

pytestmark = pytest.mark.servers
CLIENTS = 4
PATIENCE = 300.0  # seconds, for a worker that starts on a busy machine
TOKEN = "a-token-of-24-characters"
TEXTS = {"texts": ["a dog near a house and a tree by the river in the morning"] * 64}


@pytest.fixture(scope="module")
def model(packaged: Path, tmp_path_factory) -> Path:
    """The packaged model, unpacked."""
    import shutil

    from safeclip.serving.run import unpacked_model

    target = tmp_path_factory.mktemp("model") / "model"
    with unpacked_model(packaged / TAR) as folder:
        shutil.copytree(folder, target)
    return target


@pytest.fixture
def started(model: Path, tmp_path: Path):
    """A service of the sources around the packaged model: address and supervisor."""
    env = {**os.environ, "BENTOML_HOME": str(tmp_path / "home"), "BENTOML_DO_NOT_TRACK": "True"}
    env |= {"PYTHONPATH": str(ROOT / "src"), "SAFECLIP_MODEL": str(model), "SAFECLIP_TOKENS": TOKEN}
    env |= {"SAFECLIP_BACKLOG": "1"}
    (tmp_path / "home").mkdir()
    with served("safeclip.serving.service:SafeclipEmbedder", env, tmp_path) as (url, process):
        yield url, process


def client(url: str) -> httpx.AsyncClient:
    headers = {"authorization": f"Bearer {TOKEN}"}
    return httpx.AsyncClient(
        base_url=url, headers=headers, timeout=PATIENCE, limits=httpx.Limits(max_connections=200)
    )


def worker(process: psutil.Process) -> psutil.Process:
    """The process that holds the model."""
    children = process.children(recursive=True)
    return max(children, key=lambda child: child.memory_info().rss)


def test_overload_is_refused_quickly_and_passes(started) -> None:
    url, _ = started

    async def storm() -> tuple[list[tuple[int, float]], int]:
        async with client(url) as service:

            async def one() -> tuple[int, float]:
                start = time.perf_counter()
                answer = await service.post("/encode_text", json=TEXTS)
                assert answer.status_code == 200 or int(answer.headers["retry-after"]) >= 1, answer.text
                return answer.status_code, time.perf_counter() - start

            await one()
            found = await asyncio.gather(*(one() for _ in range(150)))
            await asyncio.sleep(2)
            return found, (await one())[0]

    found, afterwards = asyncio.run(storm())
    refused = [seconds for status, seconds in found if status == 429]
    answered = [seconds for status, seconds in found if status == 200]
    assert {status for status, _ in found} == {200, 429}
    assert sorted(refused)[len(refused) // 2] < max(answered)
    assert afterwards == 200


def test_a_killed_worker_comes_back_under_load(started) -> None:
    url, process = started
    supervisor = psutil.Process(process.pid)
    killed, statuses, before = worker(supervisor), list[int](), 20
    deadline = time.monotonic() + PATIENCE

    def is_back() -> bool:
        return len(statuses) >= before + CLIENTS + 20 and statuses[-20:] == [200] * 20

    async def one(service: httpx.AsyncClient) -> None:
        while not is_back() and time.monotonic() < deadline:
            try:
                status = (await service.post("/encode_text", json={"texts": ["a dog"]})).status_code
            except httpx.HTTPError:
                status = 0
            statuses.append(status)
            if len(statuses) == before:
                killed.kill()

    async def load() -> None:
        async with client(url) as service:
            await asyncio.gather(*(one(service) for _ in range(CLIENTS)))

    asyncio.run(load())
    assert is_back(), statuses[before:]
    assert worker(supervisor).pid != killed.pid
    assert set(statuses) <= {0, 200}  # 0: was in its hands when it died
    assert statuses.count(0) <= CLIENTS


def test_shutdown_finishes_what_was_accepted(started) -> None:
    url, process = started

    async def at_the_end() -> list[int]:
        async with client(url) as service:
            await service.post("/encode_text", json=TEXTS)
            sent = [asyncio.create_task(service.post("/encode_text", json=TEXTS)) for _ in range(4)]
            await asyncio.sleep(0.15)
            process.send_signal(signal.SIGTERM)
            return [answer.status_code for answer in await asyncio.gather(*sent)]

    assert set(asyncio.run(at_the_end())) <= {200, 429}
    assert process.wait(timeout=120) == 0


def test_a_changed_model_refuses_to_start(model: Path, tmp_path: Path) -> None:
    import json
    import shutil
    import subprocess

    broken = tmp_path / "model"
    shutil.copytree(model, broken)
    reference = json.loads((broken / "reference.json").read_text())
    reference["embeddings"][-1][0] += 1e-3  # the picture's
    (broken / "reference.json").write_text(json.dumps(reference))
    code = "import pathlib, sys, safeclip.serving.embedder as e; e.Embedder(pathlib.Path(sys.argv[1]))"
    done = subprocess.run([sys.executable, "-c", code, str(broken)], capture_output=True, text=True)
    assert done.returncode
    assert "reference vectors differ by 1.0e-03" in done.stderr
