"""A lock file that a killed DVC left behind stops nobody; the lock of a living process still counts."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from dvc.lock import LockError
from dvc.repo import Repo
from dvc.rwlock import rwlock

from safeclip.pipeline.graph import drop_stale_locks


@pytest.fixture
def repo(tmp_path: Path) -> Iterator[Repo]:
    repo = Repo.init(str(tmp_path), no_scm=True)
    yield repo
    repo.close()


@pytest.fixture
def living() -> Iterator[subprocess.Popen[bytes]]:
    process = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(60)", "repro", "left"])
    yield process
    process.kill()
    process.wait()


def note(repo: Repo, pid: int, command: str) -> Path:
    """As DVC notes that a process writes results/left and reads data."""
    path = Path(repo.tmp_dir) / "rwlock"
    info = {"pid": pid, "cmd": command}
    path.write_text(json.dumps({"write": {"/p/results/left": info}, "read": {"/p/data": [info]}}))
    return path


def may_write(repo: Repo) -> bool:
    try:
        with rwlock(repo.tmp_dir, repo.fs, "dvc repro", [], ["/p/results/left", "/p/data"], False):
            return True
    except LockError:
        return False


@pytest.mark.parametrize("left", ["", '{"write": {"/p/res', "[]", '{"write": {"/p": {"pid": "x"}}}'])
def test_a_file_cut_off_in_the_middle_is_begun_anew(
    left: str, repo: Repo, capsys: pytest.CaptureFixture[str]
) -> None:
    (Path(repo.tmp_dir) / "rwlock").write_text(left)
    drop_stale_locks(repo)
    assert capsys.readouterr().err == ".dvc/tmp/rwlock: left by a process that was killed; cleared\n"
    assert may_write(repo)


def test_a_living_process_keeps_its_lock(
    repo: Repo, living: subprocess.Popen[bytes], capsys: pytest.CaptureFixture[str]
) -> None:
    note(repo, living.pid, "/bin/dvc repro left")
    drop_stale_locks(repo)
    assert not may_write(repo)
    assert capsys.readouterr().err == ""


def test_an_id_that_another_program_has_by_now_does_not_count(
    repo: Repo, living: subprocess.Popen[bytes]
) -> None:
    note(repo, living.pid, "/bin/dvc repro right")
    drop_stale_locks(repo)
    assert may_write(repo)


def test_an_id_of_a_process_that_began_after_the_note_does_not_count(
    repo: Repo, living: subprocess.Popen[bytes]
) -> None:
    path = note(repo, living.pid, "/bin/dvc repro left")
    os.utime(path, (1_000_000_000, 1_000_000_000))
    drop_stale_locks(repo)
    assert may_write(repo)


def test_nothing_to_mend_leaves_the_file_alone(repo: Repo, capsys: pytest.CaptureFixture[str]) -> None:
    drop_stale_locks(repo)
    assert may_write(repo)
    drop_stale_locks(repo)
    assert capsys.readouterr().err == ""
