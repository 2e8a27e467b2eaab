"""A server of ours starts, is stopped with all its processes, and never outlives the run that started it."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
import time
from contextlib import AbstractContextManager
from pathlib import Path

import pytest

from safeclip.core.errors import ModelError
from safeclip.core.guard import load_guard
from safeclip.synthesis.answers import AnswerCheck
from safeclip.synthesis.chat import ChatEndpoint, ChatRequest, Sampling
from safeclip.synthesis.engines import RewriteRequest, TransformersRewriter
from safeclip.synthesis.language_model import model_folder
from safeclip.synthesis.vllm_server import LOG, open_rewriter, serve
from tests.support.params import make_settings
from tests.support.servers import not_run

ROOT = Path(__file__).resolve().parents[2]
MODEL = ["--model", "folder", "--served-model-name", "rewriter"]

STAND_IN = """#!{python}
# Answers like vLLM's server, with an engine process of its own; its log is the file that it was given.
import json, os, subprocess, sys
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

options = sys.argv
if "--crash" in options:
    raise ValueError("no such model")
engine = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(300)"])

class Handler(BaseHTTPRequestHandler):
    def log_message(self, *_):
        pass

    def do_GET(self):
        self.reply(b"", 503 if "--never" in options else 200)

    def do_POST(self):
        body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        if "--die" in options:
            os._exit(7)
        key = self.headers["Authorization"] == "Bearer " + os.environ["VLLM_API_KEY"]
        ours = f" key {{key}} server {{os.getpid()}} engine {{engine.pid}} model {{body['model']}}"
        said = " ".join(options) + ours
        choice = {{"message": {{"content": said}}, "finish_reason": "stop"}}
        self.reply(json.dumps({{"choices": [choice]}}).encode(), 200)

    def reply(self, content, status):
        self.send_response(status)
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        self.wfile.write(content)

port = int(options[options.index("--port") + 1])
ThreadingHTTPServer(("127.0.0.1", port), Handler).serve_forever()
"""


@pytest.fixture
def project(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder with an environment whose Python is a stand-in; the current folder."""
    program = tmp_path / ".venv-vllm" / "bin" / "python"
    program.parent.mkdir(parents=True)
    program.write_text(STAND_IN.format(python=sys.executable))
    program.chmod(0o755)
    monkeypatch.chdir(tmp_path)
    return tmp_path


def started(*arguments: str, **changes: float) -> AbstractContextManager[ChatEndpoint]:
    """A server of ours with further arguments and other settings."""
    changed = {"vllm": {"arguments": arguments, "max_attempts": 2, **changes}}
    own = make_settings(rewrite_captions=changed).rewrite_captions.vllm
    return serve(MODEL, own, dtype="bfloat16", threads=1, section="rewrite_captions.vllm")


def lives(pid: int) -> bool:
    """Whether the process is there and is not a zombie."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(") ")[2][0] != "Z"
    except OSError:
        return False


def gone(pid: int, seconds: float = 20.0) -> bool:
    deadline = time.monotonic() + seconds
    while lives(pid) and time.monotonic() < deadline:
        time.sleep(0.05)
    return not lives(pid)


def asked(text: str = "hello") -> ChatRequest:
    return ChatRequest("row", ({"role": "user", "content": text},), 1)


def test_it_serves_the_model_and_is_gone_with_its_engine(project: Path) -> None:
    with started("--tensor-parallel-size=2") as endpoint:
        (reply,) = endpoint.ask([asked()], Sampling(8, 0.7, 0.95))
        words = reply.text.split()
        engine = int(words[words.index("engine") + 1])
        assert lives(engine)
    assert not lives(engine)
    assert " ".join(MODEL) in reply.text
    assert "--enable-prefix-caching" in words
    assert "--tensor-parallel-size=2" in words
    assert "key True" in reply.text
    assert reply.text.endswith(f"engine {engine} model rewriter")
    assert endpoint.key not in reply.text  # nor in `ps`


@pytest.mark.parametrize(
    ("arguments", "changes", "line"),
    [
        (("--crash",), {}, r"died \(status 1\): ValueError: no such model; more is in work/vllm/server.log"),
        (("--never",), {"start_seconds": 1.0}, r"not ready in 1 s.*`rewrite_captions.vllm.start_seconds`"),
    ],
)  # fmt: skip
def test_a_server_that_does_not_start_is_one_line(
    project: Path, arguments: tuple[str, ...], changes: dict[str, float], line: str
) -> None:
    with (
        pytest.raises(ModelError, match=line) as error,
        started(*arguments, **changes),
    ):
        pytest.fail("the block must not run")
    assert "\n" not in str(error.value)
    assert "no such model" in LOG.read_text() or "--never" in arguments


def test_a_server_that_dies_under_way_is_named(project: Path) -> None:
    with (
        pytest.raises(ModelError, match=r"vLLM server died \(status 7\).*finished micro-batches are kept"),
        started("--die") as endpoint,
    ):
        endpoint.ask([asked()], Sampling(8, 0.7, 0.95))


def test_a_missing_environment_says_what_to_run(project: Path) -> None:
    shutil.rmtree(project / ".venv-vllm")
    with pytest.raises(ModelError, match=r"no vLLM here; run `make vllm`"):
        started().__enter__()


_KILLED = """
import sys
from safeclip.settings import LlmVllm
from safeclip.synthesis.chat import ChatRequest, Sampling
from safeclip.synthesis.vllm_server import serve

with serve(["--model", "folder"], LlmVllm(), dtype="bfloat16", threads=1, section="vllm") as endpoint:
    request = ChatRequest("row", ({"role": "user", "content": "hello"},), 1)
    print(endpoint.ask([request], Sampling(8, 0.7, 0.95))[0].text, flush=True)
    sys.stdin.read()
"""


@pytest.mark.skipif(sys.platform != "linux", reason="only Linux tells a process that its parent died")
def test_the_server_does_not_outlive_a_killed_run(project: Path) -> None:
    run = subprocess.Popen(
        [sys.executable, "-c", _KILLED], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )
    assert run.stdout is not None
    words = run.stdout.readline().split()
    server, engine = (int(words[words.index(name) + 1]) for name in ("server", "engine"))
    run.send_signal(signal.SIGKILL)
    run.wait()
    assert gone(server)
    os.kill(engine, signal.SIGKILL)  # vLLM ends its own engine on SIGTERM


def processes() -> dict[int, str]:
    """Command lines of this user's processes by pid."""
    found = {}
    for folder in Path("/proc").glob("[0-9]*"):
        try:
            found[int(folder.name)] = (folder / "cmdline").read_text().replace("\0", " ")
        except OSError:
            continue
    return found


@pytest.mark.servers
@pytest.mark.timeout(900)
def test_vllm_serves_the_tuned_model(
    vllm_environment: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """32 captions through a real vLLM server: rewritten, in order, and the server's memory is free again."""
    adapter = ROOT / "results" / "tune_rewriter" / "adapter"
    if not adapter.exists():
        not_run(f"no {adapter.relative_to(ROOT)} here; `make run` makes it")
    monkeypatch.chdir(ROOT)
    folder = model_folder("smollm2-135m")
    monkeypatch.chdir(tmp_path)
    things = ("guitar", "basket", "lamp", "suitcase")
    people = ("a man", "a woman", "a chef", "a farmer", "a singer", "a pilot", "a clown", "a judge")
    rows = [
        RewriteRequest(f"{person} {thing}", f"{person} carries a {thing} near the river", "a gun")
        for person in people
        for thing in things
    ]
    vllm = {"environment": str(vllm_environment), "start_seconds": 600}
    chosen = make_settings(
        rewrite_captions={"engine": "vllm", "vllm": vllm, "dtype": "bfloat16"}
    ).rewrite_captions
    with open_rewriter(str(ROOT / folder), adapter, chosen, seed=1, threads=2) as make:
        answers = make().rewrite(rows)
        group = os.getpgid(next(pid for pid, line in processes().items() if "--served-model-name" in line))
        members = [pid for pid in processes() if _group(pid) == group]
        assert len(members) >= 2  # the API and its engine
    assert all(gone(pid) for pid in members)
    assert [answer.id for answer in answers] == [row.id for row in rows]
    judge = AnswerCheck(load_guard())
    texts = [judge(row, answer).text or "" for row, answer in zip(rows, answers, strict=True)]
    assert sum("gun" in text for text in texts) >= 24
    assert sum(text.startswith(row.caption[:5]) for row, text in zip(rows, texts, strict=True)) >= 20
    in_process = TransformersRewriter(str(ROOT / folder), adapter, chosen, seed=1).rewrite(rows)
    same = [one.text.strip() == other.text.strip() for one, other in zip(in_process, answers, strict=True)]
    assert sum(same) >= 16  # one noise in both: only rounding parts them


def _group(pid: int) -> int:
    try:
        return os.getpgid(pid)
    except ProcessLookupError:
        return -1
