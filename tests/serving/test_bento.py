"""The Bento file: built from a passed verdict only, the same bytes twice, served without the checkout."""

import base64
import json
import os
import re
import signal
import socket
import subprocess
import sys
import tarfile
import time
from collections.abc import Iterator
from pathlib import Path

import httpx
import numpy as np
import pytest
from ruamel.yaml import YAML

from safeclip.picturebook.drawing import draw
from safeclip.pipeline.closure import import_closure

from .conftest import ROOT, run_package, write_verdict

TEXTS = ["a woman walks a dog near the river", "two apples", "a man with a gun at the station"]
CAPTIONS = ("a dog near a house", "a gun on a table")
HIDE_CHECKOUT = "import sys\nsys.path[:] = [p for p in sys.path if not p.endswith('/src') or 'bentos' in p]\n"


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


def wait_ready(url: str, process: subprocess.Popen, log: Path) -> None:
    for _ in range(480):
        assert process.poll() is None, log.read_text()[-3000:]
        try:
            if httpx.get(f"{url}/readyz", timeout=2).status_code == 200:
                return
        except httpx.HTTPError:
            pass
        time.sleep(0.25)
    raise AssertionError(f"not ready within two minutes: {log.read_text()[-3000:]}")


@pytest.fixture(scope="session")
def service(packaged: Path, tmp_path_factory) -> Iterator[str]:
    """The Bento in a new process: empty BENTOML_HOME, another folder, the checkout out of reach."""
    home = tmp_path_factory.mktemp("bentoml-home")
    away = tmp_path_factory.mktemp("away")
    (away / "sitecustomize.py").write_text(HIDE_CHECKOUT)
    env = {**os.environ, "BENTOML_HOME": str(home), "BENTOML_DO_NOT_TRACK": "True", "PYTHONPATH": str(away)}
    gone = subprocess.run([sys.executable, "-c", "import safeclip"], env=env, cwd=away, capture_output=True)
    assert gone.returncode != 0, "the checkout must be out of reach for this test to mean anything"
    tar = packaged / "results" / "package" / "safeclip-embedder.tar"
    code = f"import bentoml; print(bentoml.import_bento({str(tar)!r}).tag)"
    tag = subprocess.check_output([sys.executable, "-c", code], env=env, cwd=away, text=True).split()[-1]
    port = free_port()
    log = away / "serve.log"
    command = [sys.executable, "-m", "bentoml", "serve", tag, "--host", "127.0.0.1", "--port", str(port)]
    with log.open("wb") as sink:
        process = subprocess.Popen(
            command, env=env, cwd=away, stdout=sink, stderr=sink, start_new_session=True
        )
    try:
        wait_ready(f"http://127.0.0.1:{port}", process, log)
        yield f"http://127.0.0.1:{port}"
    finally:
        process.terminate()
        try:
            process.wait(timeout=20)
        except subprocess.TimeoutExpired:
            os.killpg(process.pid, signal.SIGKILL)
            process.wait()


@pytest.fixture(scope="session")
def checkpoint(packaged: Path):
    from safeclip.encoders.lora import load_candidate

    adapter = packaged / "results" / "finetune" / "adapter.safetensors"
    return load_candidate(packaged / "data" / "base_encoder", adapter)


def test_text_embeddings_over_http_equal_the_checkpoint(service: str, checkpoint) -> None:
    from safeclip.encoders.embed import embed_texts

    answer = httpx.post(f"{service}/encode_text", json={"texts": TEXTS}, timeout=30)
    assert answer.status_code == 200, answer.text
    served = np.array(answer.json()["embeddings"], dtype=np.float32)
    assert np.abs(served - embed_texts(checkpoint, TEXTS).numpy()).max() <= 1e-5
    assert np.allclose(np.linalg.norm(served, axis=1), 1, atol=1e-5)


def test_image_embeddings_over_http_equal_the_checkpoint(service: str, checkpoint) -> None:
    from safeclip.encoders.embed import embed_images

    pictures = [draw(caption, "photo", seed=3).png for caption in CAPTIONS]
    body = {"images": [base64.b64encode(picture).decode() for picture in pictures]}
    answer = httpx.post(f"{service}/encode_image", json=body, timeout=30)
    assert answer.status_code == 200, answer.text
    served = np.array(answer.json()["embeddings"], dtype=np.float32)
    assert np.abs(served - embed_images(checkpoint, pictures).numpy()).max() <= 1e-5


def test_info_names_the_version_and_the_limits(service: str, packaged: Path) -> None:
    record = json.loads((packaged / "results" / "package" / "package.json").read_text())
    info = httpx.post(f"{service}/info", json={}, timeout=30).json()
    assert info["version"] == record["version"]
    assert info["limits"]["texts"] == 64


@pytest.mark.parametrize(
    ("route", "body"),
    [
        ("encode_text", {}),
        ("encode_text", {"texts": []}),
        ("encode_text", {"texts": [""]}),
        ("encode_text", {"texts": "a dog"}),
        ("encode_text", {"texts": ["x" * 1001]}),
        ("encode_text", {"texts": ["a dog"] * 65}),
        ("encode_text", {"texts": ["a dog"], "model": "other"}),
        ("encode_image", {"images": ["http://127.0.0.1:1/cat.png"]}),
        ("encode_image", {"images": [base64.b64encode(b"no picture").decode()]}),
        ("encode_image", {"images": [3]}),
    ],
)
def test_bad_requests_are_400_and_the_service_goes_on(service: str, route: str, body: dict) -> None:
    assert httpx.post(f"{service}/{route}", json=body, timeout=30).status_code == 400
    good = httpx.post(f"{service}/encode_text", json={"texts": ["a dog"]}, timeout=30)
    assert good.status_code == 200


def test_no_page_of_the_service_loads_a_third_party_script(service: str) -> None:
    assert not re.search(r"https?://", httpx.get(f"{service}/", timeout=30).text)


def test_the_same_inputs_give_the_same_bytes(packaged: Path) -> None:
    tar = packaged / "results" / "package" / "safeclip-embedder.tar"
    first = tar.read_bytes()
    done = run_package(packaged)
    assert done.returncode == 0, done.stderr
    assert tar.read_bytes() == first


def test_the_bento_holds_the_service_and_nothing_of_the_training_code(packaged: Path) -> None:
    with tarfile.open(packaged / "results" / "package" / "safeclip-embedder.tar") as archive:
        names = archive.getnames()
    sources = {name.split("src/safeclip/")[1] for name in names if "src/safeclip/" in name}
    assert "serving/service.py" in sources
    assert {source.split("/")[0] for source in sources if "/" in source} == {"encoders", "serving"}
    assert not any(name.endswith((".parquet", ".jsonl")) for name in names)


def test_a_failed_verdict_is_refused_in_one_line(project: Path) -> None:
    write_verdict(project, passed=False)
    try:
        done = run_package(project)
    finally:
        write_verdict(project, passed=True)
    assert done.returncode == 1
    assert done.stderr.strip().splitlines()[-1].startswith("error: the gate failed (harmful_t2i)")
    assert "Traceback" not in done.stderr


def test_the_pins_of_the_bento_are_those_of_the_lock() -> None:
    pins = (ROOT / "src/safeclip/serving/requirements.txt").read_text().split()
    lock = [line.split(" ;")[0] for line in (ROOT / "requirements.lock").read_text().splitlines()]
    assert pins
    assert [pin for pin in pins if pin not in lock] == []


def test_the_bento_includes_exactly_what_the_service_imports() -> None:
    included = YAML(typ="safe").load((ROOT / "bentofile.yaml").read_text())["include"]
    assert sorted(included) == import_closure(ROOT, "safeclip.serving.service")
