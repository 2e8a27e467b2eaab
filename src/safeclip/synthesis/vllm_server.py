"""A vLLM server that is started for a block, and the rewriter that asks it or a server at a URL.

vLLM lives in an environment of its own and is reached over HTTP alone. A server that is started listens on
the loopback with a key made for the run, is stopped with all its processes, and ends if this process dies.
Prefix caching computes the system message once, and rows are sampled with the noise of the engine in process
(`vllm_sampler`).
"""

from __future__ import annotations

import json
import os
import re
import secrets
import signal
import socket
import subprocess
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from functools import partial
from pathlib import Path

import httpx
import torch

import safeclip
from safeclip.core.errors import ModelError
from safeclip.core.files import digest_of, remove, replacing
from safeclip.core.processes import die_with_parent
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
IMPORTS = Path("work/vllm/imports")
MAX_MODEL_LENGTH = 512  # tokens of request and answer
_STOP_SECONDS = 20.0


@contextmanager
def serve(
    model: Sequence[str], cfg: Vllm, *, dtype: str, threads: int, section: str
) -> Iterator[ChatEndpoint]:
    """Serve a model; ready when the block begins, gone when it ends.

    Args:
        model: vLLM's arguments that say what to serve.
        cfg: the server's settings.
        dtype: of the weights.
        threads: of a server without a GPU.
        section: the one of params.yaml that `cfg` comes from, named in faults.

    Raises:
        ModelError: the server does not start, or died while the block ran.
    """
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = int(probe.getsockname()[1])
    key = secrets.token_urlsafe(16)
    endpoint = _endpoint(f"http://127.0.0.1:{port}", cfg, key, keyed=True, section=section)
    process = _start(_command(model, cfg, dtype, port, section), _environment(model, key, threads))
    try:
        _wait(process, endpoint, cfg.start_seconds)
        yield endpoint
    except ModelError:
        if process.poll() is not None:
            raise ModelError(_death(process)) from None
        raise
    finally:
        _stop(process)


def _endpoint(url: str, cfg: Vllm, key: str, *, keyed: bool, section: str) -> ChatEndpoint:
    return ChatEndpoint(
        url,
        cfg.model,
        key,
        max_concurrency=cfg.max_concurrency,
        request_timeout_s=cfg.request_timeout_s,
        max_attempts=cfg.max_attempts,
        keyed=keyed,
        section=section,
    )


def _command(model: Sequence[str], cfg: Vllm, dtype: str, port: int, section: str) -> list[str]:
    python = Path(cfg.environment).absolute() / "bin" / "python"
    if not python.exists():
        raise ModelError(f"{python}: no vLLM here; run `make vllm` or correct `{section}.environment`")
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
        *without_gpu, *cfg.arguments,
    ]  # fmt: skip


def _environment(model: Sequence[str], key: str, threads: int) -> dict[str, str]:
    """Return the server's environment; the API key goes here since all can read a command line."""
    offline = {"HF_HUB_OFFLINE": "1", "TRANSFORMERS_OFFLINE": "1"} if Path(model[1]).is_dir() else {}
    on_cpu = {
        "OMP_NUM_THREADS": str(threads),
        "VLLM_CPU_OMP_THREADS_BIND": "nobind",  # any core may run a thread
        "VLLM_CPU_KVCACHE_SPACE": os.environ.get("VLLM_CPU_KVCACHE_SPACE", "2"),  # GiB
    }
    # a folder through which vLLM's environment imports `safeclip` and nothing else of this environment
    package = Path(safeclip.__file__).parent
    IMPORTS.mkdir(parents=True, exist_ok=True)
    link = IMPORTS / package.name
    link.unlink(missing_ok=True)
    link.symlink_to(package)
    always = {"PYTHONPATH": str(IMPORTS.absolute()), "VLLM_API_KEY": key}
    return os.environ | offline | ({} if torch.cuda.is_available() else on_cpu) | always


def _start(command: list[str], environment: dict[str, str]) -> subprocess.Popen[bytes]:
    LOG.parent.mkdir(parents=True, exist_ok=True)
    with LOG.open("wb") as log:
        return subprocess.Popen(
            command, env=environment, stdin=subprocess.DEVNULL, stdout=log, stderr=log,
            start_new_session=True,  # a group of its own, to be ended as one
            preexec_fn=partial(die_with_parent, signal.SIGTERM),
        )  # fmt: skip


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
    """Return one line with the first error of the log: the later ones follow from it."""
    log = [line for line in LOG.read_text(errors="replace").splitlines() if "WARNING" not in line]
    errors = re.findall(r"\w*(?:Error|Exception): .{1,150}", "\n".join(log))
    why = f": {errors[0]}" if errors else ""
    return (
        f"the vLLM server died (status {process.returncode}){why}; more is in {LOG}; correct it and run "
        "again, finished micro-batches are kept"
    )


def _stop(process: subprocess.Popen[bytes]) -> None:
    """End the server's whole group, so that no engine of it keeps memory; kill what does not go."""
    with suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGTERM)
    deadline = time.monotonic() + _STOP_SECONDS
    with suppress(ProcessLookupError):
        while time.monotonic() < deadline:
            process.poll()  # reaps the leader, who would count as living
            os.killpg(process.pid, 0)
            time.sleep(0.05)
    with suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGKILL)
    process.wait()


@contextmanager
def open_endpoint(
    cfg: Vllm, model: Callable[[], Sequence[str]], *, dtype: str, threads: int, section: str
) -> Iterator[ChatEndpoint]:
    """Open the server at `cfg.url`, which must serve the model; without a URL, start one for this block.

    `model` returns the arguments that tell vLLM what to serve; the others are those of `serve`.

    Raises:
        ModelError: names the `section` of a server that does not start, is not there or does not serve the
        model.
    """
    if cfg.url:
        key = os.environ.get(KEY_VARIABLE, "")
        endpoint = _endpoint(cfg.url, cfg, key, keyed=False, section=section)
        endpoint.check()
        yield endpoint
    else:
        print(f"{section}: starting a server from {cfg.environment}", flush=True)
        with serve(model(), cfg, dtype=dtype, threads=threads, section=section) as endpoint:
            yield endpoint


class VllmRewriter:
    """Asks a chat endpoint for every row of a micro-batch at once, up to its bound."""

    def __init__(self, endpoint: ChatEndpoint, settings: RewriteCaptions, *, seed: int) -> None:
        self.name = "vllm"
        self._endpoint = endpoint
        self._seed = seed
        self._sampling = Sampling(settings.max_new_tokens, settings.temperature, settings.top_p)

    def rewrite(self, requests: Sequence[RewriteRequest]) -> list[RewriteAnswer]:
        """Return answers in the order of the requests; `ModelError` if the server is dead or hangs."""
        chats = [
            ChatRequest(
                request.id,
                tuple(prompt_messages(request.caption, request.concept)),
                row_key(self._seed, request.id, "rewrite"),
            )
            for request in requests
        ]
        return [
            RewriteAnswer(reply.id, reply.text, reply.complete, reply.fault)
            for reply in self._endpoint.ask(chats, self._sampling)
        ]


CACHE = Path("work/vllm/merged")
# what vLLM takes for --max-lora-rank
_LORA_RANKS = (8, 16, 32, 64, 128, 256, 320, 512)


def served_model(folder: str, adapter: Path, settings: RewriteCaptions) -> list[str]:
    """Return arguments that make vLLM serve the tuned model as `vllm.model`; `ModelError` without an adapter.

    On a GPU the adapter is served beside its base. vLLM's LoRA layers are slow on a CPU, so there the weights
    are merged once into a cache folder.
    """
    name, rank = settings.vllm.model, _lora_rank(adapter)
    if not torch.cuda.is_available():
        merged = merged_model(folder, adapter, settings.dtype)
        return ["--model", str(merged), "--served-model-name", name]
    beside = ["--enable-lora", "--lora-modules", f"{name}={adapter}", "--max-lora-rank", str(rank)]
    return ["--model", folder, "--served-model-name", "base", *beside]


def merged_model(folder: str, adapter: Path, dtype: str, cache: Path = CACHE) -> Path:
    """Return the folder of the merged model, made if it is not there. Earlier ones are removed."""
    merged = cache / digest_of(folder_digest(folder), folder_digest(adapter), dtype)[:16]
    if not merged.is_dir():
        remove(cache)
        with replacing(merged) as partial:
            load_rewriter(folder, adapter, getattr(torch, dtype)).save_pretrained(partial)
            load_tokenizer(folder).save_pretrained(partial)
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
    """Return a function that makes the rewriter of `settings.engine`, callable in any worker.

    A server that is started has `threads` without a GPU and ends with the block.

    Raises:
        ModelError: a server does not start, is not there or does not serve the model.
    """
    if settings.engine == "transformers":
        yield partial(TransformersRewriter, folder, adapter, settings, seed=seed)
        return
    with open_endpoint(
        settings.vllm, partial(served_model, folder, adapter, settings),
        dtype=settings.dtype, threads=threads, section="rewrite_captions.vllm",
    ) as endpoint:  # fmt: skip
        yield partial(VllmRewriter, endpoint, settings, seed=seed)
