"""For tests of the marker `servers`: each makes or finds what it needs, or says in one line why it did not.

A test that cannot run here is neither passed nor failed: `make test-servers` ends with `NOT RUN: test: why`
for it, and with status 0 if nothing failed.
"""

from __future__ import annotations

import shutil
import subprocess
from collections.abc import Iterable, Iterator
from typing import NoReturn

import pytest

from tests.support.toy import PROJECT

MARK = "NOT RUN: "


def not_run(why: str) -> NoReturn:
    """End the test (or the fixture) here; `why` goes to the summary."""
    pytest.skip(MARK + why)


def need_command(name: str, install: str) -> str:
    """The path of a program; where there is none the test is not run and `install` says what would help."""
    return shutil.which(name) or not_run(f"no `{name}` on this machine; {install}")


def make(target: str, timeout: float = 1800.0) -> None:
    """Run a target of the Makefile that installs something (`make vllm`); not run where it fails."""
    try:
        done = subprocess.run(
            ["make", target], cwd=PROJECT, capture_output=True, text=True, timeout=timeout, check=False
        )
    except subprocess.TimeoutExpired:
        not_run(f"`make {target}` took more than {timeout:.0f} s")
    if done.returncode:
        lines = (done.stdout + done.stderr).strip().splitlines() or ["no output"]
        not_run(f"`make {target}` failed: {lines[-1]}")


def not_run_lines(skipped: Iterable[pytest.TestReport]) -> Iterator[str]:
    """One line a test that called `not_run`, from pytest's reports."""
    for report in skipped:
        why = report.longrepr[2] if isinstance(report.longrepr, tuple) else str(report.longrepr)
        _, found, reason = why.partition(MARK)
        if found:
            yield f"{MARK}{report.nodeid}: {reason}"
