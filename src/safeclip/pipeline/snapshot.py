"""Outputs of a commit, through DVC: pushed so that they outlive it, fetched where a check needs them."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from safeclip.errors import PipelineError


def push_outputs(root: Path, commit: str) -> int:
    """Push every output of `commit` to its DVC remote; how many files went."""
    from dvc.repo import Repo

    with _told(), Repo(str(root), _wait_for_lock=True) as repo:
        return int(repo.push(revs=[commit], workspace=False))


def fetch(root: Path, commit: str, paths: tuple[str, ...], folder: Path) -> None:
    """Copy files of `commit`, tracked by git or DVC, into `folder` at their own paths."""
    from dvc.api import DVCFileSystem

    with _told():
        files = DVCFileSystem(str(root), rev=commit)
        for path in paths:
            target = folder / path
            target.parent.mkdir(parents=True, exist_ok=True)
            files.get_file(path, str(target))


@contextmanager
def _told() -> Iterator[None]:
    from dvc.exceptions import DvcException

    try:
        yield
    except (DvcException, OSError) as error:
        line = " ".join(str(error).split()) or type(error).__name__
        raise PipelineError(f"DVC: {line}; `dvc pull` and `dvc push` tell more") from None
