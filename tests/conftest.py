"""What tests of several folders share. Importing safeclip first switches the tools' usage reports off."""

from __future__ import annotations

import pytest

import safeclip  # noqa: F401
from tests.chain import TinyChain, run_tiny_chain
from tests.servers import not_run_lines


@pytest.fixture(scope="session")
def tiny_chain(tmp_path_factory: pytest.TempPathFactory) -> TinyChain:
    """The real chain, run once on 40 rows (minutes). Read from it; to change something take `copy_chain`."""
    return run_tiny_chain(tmp_path_factory.mktemp("chain") / "project")


@pytest.hookimpl(tryfirst=True)  # before pytest-xdist reads the groups
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """With several workers a file stays on one; so does all that reads the tiny chain, which runs once."""
    for item in items:
        shared = "tiny_chain" in getattr(item, "fixturenames", ())
        item.add_marker(pytest.mark.xdist_group("tiny_chain" if shared else str(item.path)))


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    for line in not_run_lines(terminalreporter.stats.get("skipped", [])):
        terminalreporter.write_line(line)
