"""A test that cannot run says so in the summary, and is no failure."""

from __future__ import annotations

import sys
from pathlib import Path

from tests.support.toy import PROJECT, run

TESTS = """
import pytest
from tests.support.servers import make, need_command, not_run

pytestmark = pytest.mark.servers

def test_absent_program():
    need_command("no-such-database", "apt-get install it")

def test_absent_target():
    make("no-such-target")

@pytest.fixture
def server():
    not_run("no GPU")

def test_absent_fixture(server):
    raise AssertionError("never reached")
"""


def test_what_cannot_run_is_listed_with_its_reason_and_is_no_failure(tmp_path: Path) -> None:
    (tmp_path / "test_it.py").write_text(TESTS)
    (tmp_path / "conftest.py").write_text("from tests.conftest import pytest_terminal_summary\n")
    command = [sys.executable, "-m", "pytest", "-c", str(PROJECT / "pyproject.toml"), "-p", "no:schemathesis"]
    result = run(tmp_path, *command, "--rootdir", ".", "-m", "servers", ".", PYTHONPATH=str(PROJECT))
    assert result.returncode == 0, result.stdout
    lines = [line for line in result.stdout.splitlines() if line.startswith("NOT RUN: ")]
    assert len(lines) == 3
    assert lines[0].endswith(
        "test_it.py::test_absent_program: no `no-such-database` on this machine; apt-get install it"
    )
    assert "`make no-such-target` failed: " in lines[1]
    assert lines[2].endswith("test_absent_fixture: no GPU")
