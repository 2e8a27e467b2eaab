"""One project a session to copy from: making keys and a DVC repository takes seconds."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from tests.release.project import Project, make_project


@pytest.fixture(scope="session")
def made(tmp_path_factory: pytest.TempPathFactory) -> Project:
    return make_project(tmp_path_factory.mktemp("registry"))


@pytest.fixture
def project(made: Project, tmp_path: Path) -> Project:
    """A copy of its own, with a passed candidate that nobody was asked about."""
    root = Path(shutil.copytree(made.root, tmp_path / "project", symlinks=True))
    return Project(root, made.keys)
