"""The three sides of the serving benchmark, each in processes of its own on one torch thread."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path

import httpx
from serving_load import Side, caption, encoded_photo, photo

from safeclip.core.processes import die_with_parent

ROOT = Path(__file__).resolve().parents[1]
PEER = ROOT / ".venv-bench" / "bin" / "infinity_emb"
ONE_THREAD = {"OMP_NUM_THREADS": "1", "MKL_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1", "DO_NOT_TRACK": "1"}
READY_S = 300


@contextmanager
def ours(model: Path, scratch: Path) -> Iterator[Side]:
    """Our service: a Bento file as it goes out, or a model folder behind the service of this checkout."""
    port, home = _free_port(), scratch / f"home-{model.stem}"
    home.mkdir(exist_ok=True)
    env = {"BENTOML_HOME": str(home), "BENTOML_DO_NOT_TRACK": "True", "PYTHONPATH": str(ROOT / "src")}
    command = [sys.executable, "-m", "bentoml", "serve", "safeclip.serving.service:SafeclipEmbedder"]
    command += ["--host", "127.0.0.1", "--port", str(port)]
    if model.is_dir():
        env["SAFECLIP_MODEL"] = str(model)
    else:
        command = [sys.executable, "-m", "safeclip.cli", "serve", str(model), "--port", str(port)]
    with _server(command, env, scratch / f"ours-{model.stem}.log", f"http://127.0.0.1:{port}/readyz") as pid:
        yield Side(port, pid, _our_body)


def _our_body(kind: str, turn: int) -> tuple[str, bytes]:
    if kind == "text":
        return "/encode_text", json.dumps({"texts": [caption(turn)]}).encode()
    return "/encode_image", json.dumps({"images": [encoded_photo(turn % 16)]}).encode()


@contextmanager
def infinity(model: Path, scratch: Path) -> Iterator[Side | None]:
    """infinity-emb on the same sizes; None if its environment was not made."""
    if not PEER.is_file():
        yield None
        return
    port = _free_port()
    command = [str(PEER), "v2", "--model-id", str(model), "--served-model-name", "peer", "--engine", "torch"]
    command += ["--device", "cpu", "--dtype", "float32", "--batch-size", "32", "--host", "127.0.0.1"]
    command += ["--port", str(port), "--no-bettertransformer", "--no-model-warmup"]
    env = {"INFINITY_ANONYMOUS_USAGE_STATS": "0"}
    with _server(command, env, scratch / "infinity.log", f"http://127.0.0.1:{port}/health") as pid:
        yield Side(port, pid, _peer_body)


def _peer_body(kind: str, turn: int) -> tuple[str, bytes]:
    if kind == "text":
        return "/embeddings", json.dumps({"model": "peer", "input": [caption(turn)]}).encode()
    picture = f"data:image/jpeg;base64,{encoded_photo(turn % 16)}"
    return "/embeddings", json.dumps({"model": "peer", "input": [picture], "modality": "image"}).encode()


class Ceiling:
    """A process that does the same work in batches of 32 with nothing around it."""

    def __init__(self, model: Path) -> None:
        command = [sys.executable, __file__, str(model / "encoder")]
        self._process = subprocess.Popen(
            command,
            env={**os.environ, **ONE_THREAD},
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )

    def __enter__(self) -> Ceiling:
        return self

    def __exit__(self, *_: object) -> None:
        self._process.kill()
        self._process.wait()

    def rate(self, kind: str, seconds: float) -> float:
        """Items a second."""
        assert self._process.stdin
        assert self._process.stdout
        self._process.stdin.write(f"{kind} {seconds}\n")
        self._process.stdin.flush()
        return float(self._process.stdout.readline())


def _work(folder: str) -> None:
    import torch

    from safeclip.encoders.embed import embed_images, embed_texts
    from safeclip.encoders.load import load_encoder

    torch.set_num_threads(1)
    encoder = load_encoder(folder)
    for line in sys.stdin:
        kind, seconds = line.split()
        done, start = -32, time.perf_counter()
        while (now := time.perf_counter()) < start + float(seconds) or done <= 0:
            if done == 0:
                start = now  # the first batch warms up
            turns = range(max(0, done), max(0, done) + 32)
            if kind == "text":
                embed_texts(encoder, [caption(turn) for turn in turns])
            else:
                embed_images(encoder, [photo(turn % 16) for turn in turns])
            done += 32
        print(done / (time.perf_counter() - start), flush=True)


@contextmanager
def _server(command: list[str], env: dict[str, str], log: Path, ready: str) -> Iterator[int]:
    with log.open("wb") as sink:
        process = subprocess.Popen(
            command, env={**os.environ, **ONE_THREAD, **env}, stdout=sink, stderr=sink,
            start_new_session=True,
            preexec_fn=partial(die_with_parent, signal.SIGTERM),  # a killed benchmark leaves no server
        )  # fmt: skip
    try:
        _wait(process, ready, log)
        yield process.pid
    finally:
        process.terminate()
        try:
            process.wait(timeout=20)
        except subprocess.TimeoutExpired:
            os.killpg(process.pid, signal.SIGKILL)
            process.wait()


def _wait(process: subprocess.Popen[bytes], url: str, log: Path) -> None:
    until = time.monotonic() + READY_S
    while time.monotonic() < until and process.poll() is None:
        try:
            if httpx.get(url, timeout=2).status_code == 200:
                return
        except httpx.HTTPError:
            pass
        time.sleep(0.3)
    raise SystemExit(f"not ready: {log.read_text(errors='replace')[-1500:]}")


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


if __name__ == "__main__":
    _work(sys.argv[1])
