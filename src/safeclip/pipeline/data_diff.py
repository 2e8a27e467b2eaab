"""Compare the data folder and the results with those of another git revision, through DVC."""

from __future__ import annotations

import tempfile
from dataclasses import dataclass
from pathlib import Path

from safeclip.core.artifacts import RESULTS, DataFolder
from safeclip.core.errors import PipelineError
from safeclip.synthesis.captions import SafeCaption, load_captions


@dataclass(frozen=True)
class DataDiff:
    """A revision's captions (None if it had none), and the paths added, deleted or modified since."""

    captions: list[SafeCaption] | None
    files: dict[str, list[str]]


def data_diff(root: Path, folder: str, revision: str) -> DataDiff:
    """Compare the data folder with what it was at a git revision; results are compared as whole outputs.

    Raises:
        PipelineError: git does not know the revision, or its data are not pulled.
    """
    from dvc.exceptions import DvcException
    from dvc.repo import Repo

    try:
        captions = _captions_at(root, folder, revision)
        with Repo(str(root)) as repo:
            changed = repo.diff(revision) or {}
    except DvcException as error:
        why = " ".join(str(error).split())
        raise PipelineError(
            f"{revision}: cannot be compared ({why}); name a commit whose data are pulled"
        ) from None
    kinds = ("added", "deleted", "modified")
    paths = {kind: sorted(str(entry["path"]) for entry in changed.get(kind, [])) for kind in kinds}
    return DataDiff(captions, {kind: _summary(listed, folder) for kind, listed in paths.items() if listed})


def _captions_at(root: Path, folder: str, revision: str) -> list[SafeCaption] | None:
    from dvc.api import DVCFileSystem
    from dvc.scm import RevError

    captions = DataFolder(Path(folder)).captions
    try:
        text = DVCFileSystem(str(root), rev=revision).read_text(captions.as_posix())
    except FileNotFoundError:
        return None
    except RevError:
        raise PipelineError(
            f"{revision}: git knows no such revision; name a commit, a branch or a tag"
        ) from None
    with tempfile.TemporaryDirectory() as scratch:
        path = Path(scratch) / captions.name
        path.write_text(text, encoding="utf-8")
        return load_captions(path)


def _summary(paths: list[str], folder: str) -> list[str]:
    """Name the files of the data folder, count those of images/, and of results name the outputs alone."""
    images = [path for path in paths if path.startswith(f"{folder}/images/")]
    kept = [path for path in paths if path.startswith(f"{folder}/") and path not in images]
    kept += [path for path in paths if path.startswith(f"{RESULTS}/") and path.rstrip("/").count("/") == 1]
    files = [path for path in kept if path.rstrip("/") != folder]
    return sorted(files) + ([f"{len(images)} images"] if images else [])
