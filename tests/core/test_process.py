"""Nothing goes on beside a new run: a process dies with whoever started it, one of a stage runs at a time."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from safeclip.core.errors import PipelineError
from safeclip.core.processes import PARENT, hold_alone

FOLLOWER = """
import os, sys, time
from safeclip.core.processes import die_with_starter
{before}
die_with_starter()
print(os.getpid(), flush=True)
time.sleep(60)
"""
STARTER = """
import os, subprocess, sys, time
os.environ["SAFECLIP_PARENT"] = str(os.getpid())
subprocess.Popen(["sh", "-c", '"$0" -c "$1"; true', sys.executable, sys.argv[1]])  # a shell in between
time.sleep(60)
"""
HOLDER = """
import time
from safeclip.core.processes import hold_alone
hold_alone("evaluate")
print("held", flush=True)
time.sleep(60)
"""


def gone(pid: int, within: float = 20.0) -> bool:
    deadline = time.monotonic() + within
    while time.monotonic() < deadline:
        try:
            os.kill(pid, 0)
        except ProcessLookupError:
            return True
        time.sleep(0.05)
    return False


def start(code: str, *arguments: str, folder: Path | None = None) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-c", code, *arguments], stdout=subprocess.PIPE, text=True, cwd=folder
    )


def test_dies_with_its_starter_although_a_shell_stands_in_between() -> None:
    starter = start(STARTER, FOLLOWER.format(before=""))
    follower = int(starter.stdout.readline())
    starter.kill()
    starter.wait()
    assert gone(follower)


def test_dies_at_once_if_its_starter_died_before_it_could_ask(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(PARENT, "1")  # alive, but none of the ancestors that the follower looks for
    monkeypatch.setenv("PYTHONWARNINGS", "ignore")
    before = "import safeclip.core.processes as p; p.ancestors = lambda: set()"
    follower = start(FOLLOWER.format(before=before))
    assert follower.wait(30) == -signal.SIGKILL


def test_a_second_one_of_a_stage_waits_then_says_who_is_at_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    holder = start(HOLDER, folder=tmp_path)
    assert holder.stdout.readline() == "held\n"
    with pytest.raises(PipelineError, match=f"^evaluate: process {holder.pid} is at it .*stop it$"):
        hold_alone("evaluate", wait=0.2)
    hold_alone("package", wait=0.2)
    holder.kill()  # and its lock goes with it, with nothing to remove by hand
    hold_alone("evaluate", wait=20)
    holder.wait()
