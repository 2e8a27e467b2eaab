"""Generated unsafe data is readable by its owner only, whoever made the folders before."""

from __future__ import annotations

import os
import stat
from collections.abc import Iterator
from pathlib import Path

import pytest

from safeclip.core.permissions import restrict
from tests.support.toy import PROJECT, run


@pytest.fixture(autouse=True)
def open_umask() -> Iterator[None]:
    before = os.umask(0o022)
    yield
    os.umask(before)


def mode(path: Path) -> int:
    return stat.S_IMODE(path.stat().st_mode)


def make(root: Path, config: str) -> None:
    for name in (".dvc/tmp", "results/a", "work", "logs", "remote", "restricted", "dvcstore", "data"):
        (root / name).mkdir(parents=True)
    (root / ".dvc" / "config").write_text(
        config
        + "['remote \"default\"']\n    url = ../remote\n['remote \"restricted\"']\n    url = ../restricted\n"
        "['remote \"bundled\"']\n    url = ../dvcstore\n['remote \"cloud\"']\n    url = s3://bucket/remote\n"
    )


def test_every_folder_that_may_hold_unsafe_data_is_closed(tmp_path: Path) -> None:
    make(tmp_path, "")
    assert restrict(tmp_path) == []
    closed = ("results", "work", "logs", "remote", "restricted", ".dvc/tmp", ".dvc/cache")
    assert {mode(tmp_path / name) for name in closed} == {0o700}
    assert {mode(tmp_path / name) for name in ("dvcstore", "data", ".dvc")} == {0o755}


def test_a_cache_shared_with_a_group_stays_open_to_it(tmp_path: Path) -> None:
    make(tmp_path, "[cache]\n    dir = ../shared-cache\n    shared = group\n")
    (tmp_path / "shared-cache").mkdir(mode=0o775)
    (tmp_path / "shared-cache").chmod(0o775)
    restrict(tmp_path)
    assert mode(tmp_path / "shared-cache") == 0o770
    assert mode(tmp_path / "results") == 0o700
    assert not (tmp_path / ".dvc" / "cache").exists()


def test_a_folder_without_dvc_is_left_as_it_is(tmp_path: Path) -> None:
    assert restrict(tmp_path) == []
    assert list(tmp_path.iterdir()) == []


def test_a_stage_closes_results_before_it_begins(tmp_path: Path) -> None:
    (tmp_path / "results" / "evaluate").mkdir(parents=True)
    (tmp_path / "params.yaml").write_text((PROJECT / "params.yaml").read_text())
    done = run(tmp_path, "python", "-m", "safeclip.stages.gate")
    assert done.returncode == 1
    assert mode(tmp_path / "results") == 0o700
