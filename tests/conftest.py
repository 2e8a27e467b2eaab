"""What tests of several folders share. Importing safeclip first switches the tools' usage reports off."""

from __future__ import annotations

from pathlib import Path

import pytest
from xdist.remote import Producer
from xdist.scheduler import LoadScopeScheduling

import safeclip  # noqa: F401
from tests.support.chain import TinyChain, run_tiny_chain
from tests.support.servers import not_run_lines

TESTS = Path(__file__).parent


@pytest.fixture(scope="session")
def tiny_chain(tmp_path_factory: pytest.TempPathFactory) -> TinyChain:
    """The real chain, run once on 40 rows (minutes). Read from it; to change something take `copy_chain`."""
    return run_tiny_chain(tmp_path_factory.mktemp("chain") / "project")


class FilesAndChain(LoadScopeScheduling):  # type: ignore[misc]
    """A file stays on one worker, and so do all files that read the tiny chain: it runs once.

    pytest-xdist's own groups (`--dist loadgroup`) do not hold under pytest 9.2: they rename a copy.
    """

    def _split_scope(self, nodeid: str) -> str:
        file = nodeid.split("::", 1)[0]
        return "tiny_chain" if "tiny_chain" in (TESTS.parent / file).read_text(encoding="utf-8") else file


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_make_scheduler(config: pytest.Config, log: Producer) -> FilesAndChain:
    return FilesAndChain(config, log)


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    for line in not_run_lines(terminalreporter.stats.get("skipped", [])):
        terminalreporter.write_line(line)
