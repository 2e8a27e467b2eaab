"""Another version of the data, through git and DVC: its captions, and which files and outputs differ."""

from __future__ import annotations

import tempfile
from dataclasses import dataclass
from pathlib import Path

from safeclip.errors import PipelineError
from safeclip.synthesis.captions import SafeCaption, load_captions


@dataclass(frozen=True)
class Earlier:
    """The captions of that version, None if it had none; paths that were added, deleted or modified since."""

    captions: list[SafeCaption] | None
    files: dict[str, list[str]]


def earlier_version(root: Path, folder: str, revision: str) -> Earlier:
    """What `folder` was at a git revision, and what differs now; results are compared as whole outputs."""
    from dvc.exceptions import DvcException
    from dvc.repo import Repo

    try:
        captions = _captions(root, folder, revision)
        with Repo(str(root)) as repo:
            found = repo.diff(revision) or {}
    except DvcException as error:
        why = " ".join(str(error).split())
        raise PipelineError(
            f"{revision}: cannot be compared ({why}); name a commit whose data are pulled"
        ) from None
    kinds = ("added", "deleted", "modified")
    paths = {kind: sorted(str(entry["path"]) for entry in found.get(kind, [])) for kind in kinds}
    return Earlier(captions, {kind: _few(listed, folder) for kind, listed in paths.items() if listed})


def _captions(root: Path, folder: str, revision: str) -> list[SafeCaption] | None:
    from dvc.api import DVCFileSystem
    from dvc.scm import RevError

    try:
        text = DVCFileSystem(str(root), rev=revision).read_text(f"{folder}/captions.jsonl")
    except FileNotFoundError:
        return None
    except RevError:
        raise PipelineError(
            f"{revision}: git knows no such revision; name a commit, a branch or a tag"
        ) from None
    with tempfile.TemporaryDirectory() as scratch:
        path = Path(scratch) / "captions.jsonl"
        path.write_text(text, encoding="utf-8")
        return load_captions(path)


def _few(paths: list[str], folder: str) -> list[str]:
    """Files of the data folder one by one, unless they are pictures; of results the outputs alone."""
    kept = [path for path in paths if path.startswith(f"{folder}/") and f"{folder}/images/" not in path]
    kept += [path for path in paths if path.startswith("results/") and path.rstrip("/").count("/") == 1]
    pictures = sum(f"{folder}/images/" in path for path in paths)
    files = [path for path in kept if path.rstrip("/") != folder]
    return sorted(files) + ([f"{pictures} pictures"] if pictures else [])
