"""A vLLM server of our own: started, waited for, stopped with all its processes, gone if this process dies.

vLLM lives in an environment of its own and is reached over HTTP alone. It listens on the loopback with a key
made for the run. Prefix caching computes the system message once, and rows are sampled with the noise of the
engine in process (vllm_sampler).
"""

from __future__ import annotations

import ctypes
import hashlib
import json
import os
import re
import secrets
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from functools import partial
from pathlib import Path

import httpx
import torch

import safeclip
from safeclip.core.errors import ModelError
from safeclip.settings import RewriteCaptions, Vllm
from safeclip.synthesis.chat import KEY_VARIABLE, ChatEndpoint, ChatRequest, Sampling
from safeclip.synthesis.engines import (
    RewriteAnswer,
    Rewriter,
    RewriteRequest,
    TransformersRewriter,
    prompt_messages,
)
from safeclip.synthesis.language_model import folder_digest, load_rewriter, load_tokenizer
from safeclip.synthesis.row_noise import row_key

LOG = Path("work/vllm/server.log")
IMPORTS = Path("work/vllm/imports")  # on the server's path: this package and nothing else of this environment
MAX_MODEL_LENGTH = 512  # tokens of request and answer
_STOP_SECONDS = 20.0
_PR_SET_PDEATHSIG = 1
_LIBC = ctypes.CDLL(None) if sys.platform == "linux" else None


@contextmanager
def serve(
    model: Sequence[str], own: Vllm, *, dtype: str, threads: int, section: str
) -> Iterator[ChatEndpoint]:
    """Serve a model (arguments of vLLM's); ready when the block begins, gone when it ends.

    `threads` are those of a server without a GPU, `section` is the one of params.yaml that `own` stands in.
    `ModelError`, one line, if it does not start or if it died while the block ran.
    """
    port, key = _free_port(), secrets.token_urlsafe(16)
    root = f"http://127.0.0.1:{port}"
    limits = (own.max_concurrency, own.request_timeout_s, own.max_attempts)
    endpoint = ChatEndpoint(root, own.model, key, *limits, keyed=True, section=section)
    process = _start(_command(model, own, dtype, port, section), _environment(model, key, threads))
    try:
        _wait(process, endpoint, own.start_seconds)
        yield endpoint
    except ModelError:
        if process.poll() is not None:
            raise ModelError(_death(process)) from None
        raise
    finally:
        _stop(process)


def _command(model: Sequence[str], own: Vllm, dtype: str, port: int, section: str) -> list[str]:
    python = Path(own.environment).absolute() / "bin" / "python"
    if not python.exists():
        raise ModelError(f"{python}: no vLLM here; run `make vllm` or mend `{section}.environment`")
    without_gpu = [] if torch.cuda.is_available() else ["--enforce-eager"]
    return [
        # not `vllm serve`: that asks for the metadata of a package `vllm`, which the CPU build does not have
        str(python), "-m", "vllm.entrypoints.openai.api_server",
        *model,
        "--host", "127.0.0.1", "--port", str(port),
        "--dtype", dtype, "--max-model-len", str(MAX_MODEL_LENGTH),
        "--generation-config", "vllm",  # no sampling defaults out of the model's folder
        "--enable-prefix-caching", "--disable-uvicorn-access-log",
        "--logits-processors", "safeclip.synthesis.vllm_sampler:KeyedSampling",
        *without_gpu, *own.arguments,
    ]  # fmt: skip


def _environment(model: Sequence[str], key: str, threads: int) -> dict[str, str]:
    """Of the server: its key out of sight of `ps`; without a GPU, threads that any core may run."""
    offline = {"HF_HUB_OFFLINE": "1", "TRANSFORMERS_OFFLINE": "1"} if Path(model[1]).is_dir() else {}
    on_cpu = {
        "OMP_NUM_THREADS": str(threads),
        "VLLM_CPU_OMP_THREADS_BIND": "nobind",
        "VLLM_CPU_KVCACHE_SPACE": os.environ.get("VLLM_CPU_KVCACHE_SPACE", "2"),  # GiB
    }
    own = {"PYTHONPATH": str(_importable()), "VLLM_API_KEY": key}
    return os.environ | offline | ({} if torch.cuda.is_available() else on_cpu) | own


def _importable() -> Path:
    """A folder through which vLLM's environment imports `safeclip`, wherever that is installed."""
    package = Path(safeclip.__file__).parent
    IMPORTS.mkdir(parents=True, exist_ok=True)
    link = IMPORTS / package.name
    link.unlink(missing_ok=True)
    link.symlink_to(package)
    return IMPORTS.absolute()


def _start(command: list[str], environment: dict[str, str]) -> subprocess.Popen[bytes]:
    LOG.parent.mkdir(parents=True, exist_ok=True)
    with LOG.open("wb") as log:
        return subprocess.Popen(
            command, env=environment, stdin=subprocess.DEVNULL, stdout=log, stderr=log,
            start_new_session=True,  # a group of its own, to be ended as one
            preexec_fn=_die_with_parent,
        )  # fmt: skip


def _die_with_parent() -> None:
    """In the child, before it becomes vLLM: the kernel asks it to end when this process is gone."""
    if _LIBC is not None:
        _LIBC.prctl(_PR_SET_PDEATHSIG, signal.SIGTERM)


def _wait(process: subprocess.Popen[bytes], endpoint: ChatEndpoint, seconds: float) -> None:
    deadline = time.monotonic() + seconds
    with httpx.Client(base_url=endpoint.root, timeout=5.0, trust_env=False) as client:
        while not _healthy(client):
            if process.poll() is not None:
                raise ModelError(_death(process))
            if time.monotonic() > deadline:
                raise ModelError(
                    f"the vLLM server was not ready in {seconds:g} s; {LOG} says why, or raise "
                    f"`{endpoint.section}.start_seconds`"
                )
            time.sleep(0.5)


def _healthy(client: httpx.Client) -> bool:
    try:
        return client.get("/health").status_code == 200
    except httpx.HTTPError:
        return False


def _death(process: subprocess.Popen[bytes]) -> str:
    """One line with the first error of the log: the later ones only say that something went wrong before."""
    said = [line for line in LOG.read_text(errors="replace").splitlines() if "WARNING" not in line]
    errors = re.findall(r"\w*(?:Error|Exception): .{1,150}", "\n".join(said))
    why = f": {errors[0]}" if errors else ""
    return (
        f"the vLLM server died (status {process.returncode}){why}; more is in {LOG}; mend it and run again, "
        "finished micro-batches are kept"
    )


def _stop(process: subprocess.Popen[bytes]) -> None:
    """End the server's whole group, so that no engine of it keeps memory; kill what does not go."""
    with suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGTERM)
    deadline = time.monotonic() + _STOP_SECONDS
    while _group_lives(process) and time.monotonic() < deadline:
        time.sleep(0.05)
    with suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGKILL)
    process.wait()


def _group_lives(process: subprocess.Popen[bytes]) -> bool:
    process.poll()  # reaps the leader, who would count as living
    try:
        os.killpg(process.pid, 0)
    except ProcessLookupError:
        return False
    return True


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


@contextmanager
def open_endpoint(
    own: Vllm, model: Callable[[], Sequence[str]], *, dtype: str, threads: int, section: str
) -> Iterator[ChatEndpoint]:
    """The server at `own.url`, which must serve the model; without a URL one of ours, for this block.

    `model` gives the arguments that tell vLLM what to serve, `threads` are those of a server of ours.
    `ModelError` names the `section` to mend if it does not start, is not there or does not serve the model.
    """
    if own.url:
        key = os.environ.get(KEY_VARIABLE, "")
        limits = (own.max_concurrency, own.request_timeout_s, own.max_attempts)
        endpoint = ChatEndpoint(own.url, own.model, key, *limits, section=section)
        endpoint.check()
        yield endpoint
    else:
        print(f"{section}: starting a server from {own.environment}", flush=True)
        with serve(model(), own, dtype=dtype, threads=threads, section=section) as endpoint:
            yield endpoint


class VllmRewriter:
    """Asks a chat endpoint for every row of a micro-batch at once, up to its bound."""

    def __init__(self, endpoint: ChatEndpoint, settings: RewriteCaptions, *, seed: int) -> None:
        self.name = "vllm"
        self._endpoint = endpoint
        self._seed = seed
        self._sampling = Sampling(settings.max_new_tokens, settings.temperature, settings.top_p)

    def rewrite(self, requests: Sequence[RewriteRequest]) -> list[RewriteAnswer]:
        """Answers in the order of the requests; `ModelError` if the server is dead or hangs."""
        asked = [
            ChatRequest(
                request.id,
                tuple(prompt_messages(request.caption, request.concept)),
                row_key(self._seed, request.id, "rewrite"),
            )
            for request in requests
        ]
        return [
            RewriteAnswer(reply.id, reply.text, reply.complete, reply.fault)
            for reply in self._endpoint.ask(asked, self._sampling)
        ]


CACHE = Path("work/vllm/merged")


_LORA_RANKS = (8, 16, 32, 64, 128, 256, 320, 512)  # what vLLM takes for --max-lora-rank


def served_model(folder: str, adapter: Path, settings: RewriteCaptions) -> list[str]:
    """Arguments that make vLLM serve the tuned model as `vllm.model`; `ModelError` without an adapter."""
    name, rank = settings.vllm.model, _lora_rank(adapter)
    if not torch.cuda.is_available():
        merged = merged_model(folder, adapter, settings.dtype)
        return ["--model", str(merged), "--served-model-name", name]
    beside = ["--enable-lora", "--lora-modules", f"{name}={adapter}", "--max-lora-rank", str(rank)]
    return ["--model", folder, "--served-model-name", "base", *beside]


def merged_model(folder: str, adapter: Path, dtype: str, cache: Path = CACHE) -> Path:
    """The folder of the merged model, made if need be: whole or not at all. Earlier ones are removed."""
    made_of = f"{folder_digest(folder)} {folder_digest(adapter)} {dtype}".encode()
    merged = cache / hashlib.sha256(made_of).hexdigest()[:16]
    if not merged.is_dir():
        shutil.rmtree(cache, ignore_errors=True)
        partial = cache / "partial"
        load_rewriter(folder, adapter, getattr(torch, dtype)).save_pretrained(partial)
        load_tokenizer(folder).save_pretrained(partial)
        os.rename(partial, merged)
    return merged


def _lora_rank(adapter: Path) -> int:
    try:
        rank = int(json.loads((adapter / "adapter_config.json").read_text(encoding="utf-8"))["r"])
    except (OSError, ValueError, KeyError, TypeError):
        raise ModelError(f"{adapter}: no adapter to read here; run the stage tune_rewriter") from None
    return next((size for size in _LORA_RANKS if size >= rank), rank)


@contextmanager
def open_rewriter(
    folder: str, adapter: Path, settings: RewriteCaptions, *, seed: int, threads: int
) -> Iterator[Callable[[], Rewriter]]:
    """How to make the rewriter of `settings.engine` in any worker; `threads` are those of a server of ours.

    `ModelError` if a server does not start, is not there or does not serve the model.
    """
    if settings.engine == "transformers":
        yield partial(TransformersRewriter, folder, adapter, settings, seed=seed)
        return
    with open_endpoint(
        settings.vllm, partial(served_model, folder, adapter, settings),
        dtype=settings.dtype, threads=threads, section="rewrite_captions.vllm",
    ) as endpoint:  # fmt: skip
        yield partial(VllmRewriter, endpoint, settings, seed=seed)
