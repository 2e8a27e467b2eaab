"""Run a dvc command as a child process that dies with its starter: `run_stage`, `run_dvc`, `stop_all`.

The child is this module itself, `python -m safeclip.pipeline.stage_process ARGUMENTS`: the dvc command, but
- it dies with whoever started it (a flow that is killed -9 included), and with it the stage and whatever the
  stage started: they share its process group, and watch it;
- what it writes (the cache too) is readable by its owner only, because some of it is unsafe by purpose;
- `python` in a stage's command means this environment's, activated or not;
- a kill never leaves half a dvc.lock: DVC writes it in place, here it is renamed into its place.
"""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path
from typing import IO, Any

from safeclip.core.errors import PipelineError
from safeclip.core.permissions import restrict
from safeclip.core.processes import PARENT, die_with_starter

SCRATCH = Path(".dvc/tmp")
# Between two lines kept of a progress bar, which redraws itself with \r.
_PROGRESS_SECONDS = 5.0
# Given to a child that was asked to stop.
_STOP_SECONDS = 5.0
_LINE_END = re.compile(rb"[\r\n]")
_running: set[subprocess.Popen[bytes]] = set()
_running_lock = threading.Lock()


def run_stage(root: Path, name: str, log: Callable[[str], None], *, force: bool = False) -> None:
    """Run stage `name` alone through DVC, each line of its output to `log`; `PipelineError` if it fails.

    A `.dvc` file (`data.dvc`) is not run but pulled from its remote.
    """
    if name.endswith(".dvc"):
        data = name.removesuffix(".dvc")
        hint = (
            f"`dvc commit {name}` keeps what you changed in {data}/, `dvc checkout --force {name}` drops it"
        )
        run_dvc(root, ["pull", "-q", name], f"{name}: cannot be pulled over what lies there; {hint}", log)
    else:
        command = ["repro", "-q", "-s", *(["--force"] if force else []), name]
        run_dvc(root, command, f"stage `{name}` failed; its lines say why", log)


def stop_all() -> None:
    """Stop every stage that this process runs, with all its children: politely, then by force."""
    with _running_lock:
        children = list(_running)
    for sent in (signal.SIGTERM, signal.SIGKILL):
        for child in children:
            _signal_group(child, sent)
        _wait(children, _STOP_SECONDS)


def run_dvc(root: Path, arguments: list[str], failure: str, log: Callable[[str], None]) -> None:
    """Run a dvc command as a child that ends with us, each line of its output to `log`.

    Raises:
        PipelineError: it failed; the message is its last "error: ..." line, or `failure` if it has none.
    """
    command = [sys.executable, "-m", "safeclip.pipeline.stage_process", *arguments]
    child = subprocess.Popen(
        command,
        cwd=root,
        env={"PYTHONWARNINGS": "ignore", **os.environ, "PYTHONUNBUFFERED": "1", PARENT: str(os.getpid())},
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        start_new_session=True,
    )
    with _running_lock:
        _running.add(child)
    try:
        fault = _follow(child, log)
    finally:
        _signal_group(child, signal.SIGKILL)
        child.wait()
        with _running_lock:
            _running.discard(child)
    if child.returncode:
        raise PipelineError(fault or failure)


def _follow(child: subprocess.Popen[bytes], log: Callable[[str], None]) -> str:
    """Log the child's lines until it ends; return what the stage's own last "error: ..." line says."""
    assert child.stdout is not None
    fault = ""
    for line in _lines(child.stdout):
        log(line)
        if line.startswith("error: "):
            fault = line.removeprefix("error: ")
    child.wait()
    return fault


def _lines(stream: IO[bytes]) -> Iterator[str]:
    """Yield lines that end with a newline; of those that a progress bar overwrites (\\r), one in a while."""
    pending, last_progress = b"", -_PROGRESS_SECONDS
    while chunk := stream.read1(65536):  # type: ignore[attr-defined]
        pending += chunk.replace(b"\r\n", b"\n")
        while end := _LINE_END.search(pending):
            line, pending = pending[: end.start()], pending[end.end() :]
            is_progress = end.group() == b"\r"
            if is_progress and time.monotonic() - last_progress < _PROGRESS_SECONDS:
                continue
            if text := line.decode("utf-8", "replace").strip():
                last_progress = time.monotonic() if is_progress else last_progress
                yield text
    if text := pending.decode("utf-8", "replace").strip():
        yield text


def _signal_group(child: subprocess.Popen[bytes], sent: signal.Signals) -> None:
    with suppress(ProcessLookupError):
        os.killpg(child.pid, sent)


def _wait(children: list[subprocess.Popen[bytes]], seconds: float) -> None:
    deadline = time.monotonic() + seconds
    while any(child.poll() is None for child in children) and time.monotonic() < deadline:
        time.sleep(0.05)


def main() -> int:
    """Run dvc with this process's arguments, waiting for the repository's lock; return its exit status."""
    signal.signal(signal.SIGTERM, lambda *_: os.killpg(os.getpgrp(), signal.SIGKILL))
    die_with_starter(signal.SIGTERM)
    os.environ[PARENT] = str(os.getpid())
    os.umask(0o077)
    restrict(Path())
    os.environ["PATH"] = os.pathsep.join(
        [str(Path(sys.executable).parent), os.environ.get("PATH", os.defpath)]
    )
    from dvc.cli import main as dvc

    _write_yaml_atomically()
    return dvc(["--wait-for-lock", *sys.argv[1:]])


def _write_yaml_atomically() -> None:
    """Have DVC write dvc.lock to a temporary place and rename it."""
    # A private function of the DVC release that is pinned.
    from dvc.utils.serialize import _common

    in_place = _common._dump_data

    def dump(path: str, data: Any, dumper: Any, fs: Any = None, **options: Any) -> None:
        partial = SCRATCH / f"{Path(path).name}.{os.getpid()}"
        in_place(str(partial), data, dumper, fs=None, **options)
        partial.chmod(Path(path).stat().st_mode & 0o777 if Path(path).exists() else 0o644)
        os.replace(partial, path)

    _common._dump_data = dump


if __name__ == "__main__":
    sys.exit(main())
