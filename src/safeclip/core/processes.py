"""Processes of the chain die with whoever started them, and no two of one stage write side by side.

A flow starts DVC's process, that starts the stage, that may start workers. Each is told in `PARENT` whose
end is its own: asking the kernel (prctl) misses a parent that died before the question, and a shell in
between.
"""

from __future__ import annotations

import ctypes
import fcntl
import multiprocessing
import os
import select
import signal
import sys
import threading
import time
from pathlib import Path
from typing import IO

from safeclip.core.errors import PipelineError

PARENT = "SAFECLIP_PARENT"
"""Environment variable: the id of the process to die with."""
LOCKS = Path("work/locks")
WAIT_SECONDS = 30.0  # for a killed one to be gone
_PR_SET_PDEATHSIG = 1
# loaded here, because a child between fork and exec must not load anything
_LIBC = ctypes.CDLL(None) if sys.platform == "linux" else None
_alive_while_held: list[IO[str]] = []


def die_with_parent(sent: signal.Signals = signal.SIGKILL) -> None:
    """Ask the kernel (Linux) to signal this process when its parent dies, so that no orphan keeps writing."""
    if _LIBC is not None:
        _LIBC.prctl(_PR_SET_PDEATHSIG, sent)


def start_worker() -> None:
    """Initialise a worker of a process pool: it dies with the pool's process, and leaves Ctrl-C to it."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    die_with_parent()
    parent = multiprocessing.parent_process()
    if parent is not None and not parent.is_alive():  # gone before the kernel was asked
        os._exit(1)


def die_with_starter(sent: signal.Signals = signal.SIGKILL) -> None:
    """As `die_with_parent`, and die with the process named in `PARENT` too, at once if it is gone already."""
    die_with_parent(sent)
    starter = int(os.environ.get(PARENT, 0))
    if starter and sys.platform == "linux":
        threading.Thread(target=_follow_to_the_end, args=(starter, sent), daemon=True).start()


def ancestors() -> set[int]:
    """Process ids of this process's parent, its parent and so on, from /proc."""
    found, pid = set[int](), os.getppid()
    while pid > 0 and pid not in found:
        found.add(pid)
        try:
            stat = Path(f"/proc/{pid}/stat").read_text()
        except OSError:
            break
        pid = int(stat.rpartition(")")[2].split()[1])
    return found


def _follow_to_the_end(starter: int, sent: signal.Signals) -> None:
    try:
        handle = os.pidfd_open(starter)
        if starter in ancestors():  # or the id is another process's by now
            select.select([handle], [], [])
    except ProcessLookupError:
        pass
    except OSError:  # a kernel without pidfd_open: what prctl promises is what there is
        return
    os.kill(os.getpid(), sent)


def hold_alone(name: str, *, wait: float = WAIT_SECONDS) -> None:
    """Hold the lock of stage `name` in this checkout until this process ends, however it ends.

    Waits for one that is about to die; `PipelineError` if it lives on.
    """
    LOCKS.mkdir(parents=True, exist_ok=True)
    file = (LOCKS / name).open("a+", encoding="utf-8")
    deadline = time.monotonic() + wait
    while not _locked(file):
        if time.monotonic() > deadline:
            file.seek(0)
            raise PipelineError(
                f"{name}: process {file.read().strip() or 'unknown'} is at it in this checkout; "
                "wait until it is done, or stop it"
            )
        time.sleep(0.05)
    file.truncate(0)
    file.write(str(os.getpid()))
    file.flush()
    _alive_while_held.append(file)


def _locked(file: IO[str]) -> bool:
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True
