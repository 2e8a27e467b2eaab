"""What a killed run has finished, kept in a folder named by a digest for the run that goes on from it.

Stages keep theirs in work/STAGE/DIGEST (`open_scratch`). The micro-batches of rewriting and rendering, the
portions of an import and the parts of an index are pieces of a `Scratch` too. The digest covers all that the
kept work follows from: settings, inputs, code, libraries. Whatever changes, the next run finds an empty
folder, and the folder of the old state is removed, so nothing resumes from stale state and unsafe data does
not lie about. A piece counts as finished once the digests of its files are written down, and is thrown away
if its files do not match them any more.
"""

from __future__ import annotations

import json
import shutil
import sys
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

from safeclip.core.artifacts import WORK
from safeclip.core.files import digest_of, remove, replacing, sha256, tree_digest, write_text
from safeclip.settings import Settings

_PACKAGE = Path(__file__).parents[1]
_LIBRARIES = (
    "torch", "numpy", "open_clip_torch", "transformers", "peft", "trl", "diffusers", "pillow", "pyarrow",
)  # fmt: skip


@dataclass(frozen=True)
class Scratch:
    """A folder of finished pieces; `stage` is named in the lines about them."""

    stage: str
    folder: Path

    def keep(self, piece: str, files: Iterable[Path]) -> None:
        """Count `piece` as finished: it consists of `files`, all in this folder and written whole."""
        digests = {file.relative_to(self.folder).as_posix(): sha256(file) for file in files}
        write_text(self._record(piece), json.dumps(digests))

    def write(self, piece: str, data: bytes) -> None:
        """Count `piece` as finished: a file of this name with these bytes."""
        self.folder.mkdir(parents=True, exist_ok=True)
        file = self.folder / piece
        with replacing(file) as partial:
            partial.write_bytes(data)
        self.keep(piece, [file])

    def read(self, piece: str) -> bytes | None:
        """The bytes of a finished piece; None if it is not finished, or damaged."""
        return (self.folder / piece).read_bytes() if self.has(piece) else None

    def has(self, piece: str) -> bool:
        """Whether `piece` is finished and as it was then; what is damaged is thrown away, with a line."""
        record = self._record(piece)
        if not record.is_file():
            return False
        if not self._is_whole(record):
            print(f"{self.stage}: {self.folder / piece} is damaged; it is made anew", flush=True)
            record.unlink()
            return False
        return True

    def _is_whole(self, record: Path) -> bool:
        try:
            digests = json.loads(record.read_text(encoding="utf-8"))
            return all(sha256(self.folder / name) == digest for name, digest in digests.items())
        except (ValueError, AttributeError, OSError):
            return False

    def _record(self, piece: str) -> Path:
        return self.folder / f"{piece}.whole"


@contextmanager
def open_scratch(
    stage: str, settings: Settings, inputs: Iterable[Path], sections: Iterable[str] = ()
) -> Iterator[Scratch]:
    """The scratch of `stage` for its section of `settings`, the further `sections` and the bytes of `inputs`.

    `compute.workers` does not count. `inputs` are files or folders. The scratch stays if the block ends with
    an error or a kill, and is removed when it ends well.
    """
    parts = [
        settings.model_dump_json(
            include={"seed", "compute", "data", stage, *sections}, exclude={"compute": {"workers"}}
        ),
        *(tree_digest(path) for path in inputs),
        _versions(),
        _code(),
    ]
    digest = digest_of(*parts)[:16]
    folder = WORK / stage / digest
    remove_stale(stage, folder)
    folder.mkdir(parents=True, exist_ok=True)
    yield Scratch(stage, folder)
    shutil.rmtree(folder)


def remove_stale(stage: str, folder: Path) -> None:
    """Remove what lies beside `folder`, the scratch of a stage's present inputs, with a line for each."""
    for other in sorted(folder.parent.glob("*")):
        if other != folder:
            print(f"{stage}: {other} is of other inputs or settings; removed", flush=True)
            remove(other)


def _versions() -> str:
    found = []
    for name in _LIBRARIES:
        try:
            found.append(f"{name} {version(name)}")
        except PackageNotFoundError:
            found.append(f"{name} none")
    return ", ".join(found)


def _code() -> str:
    """Of this package's modules as they are imported here: what a stage runs, and little more."""
    files = {
        Path(file) for module in list(sys.modules.values()) if (file := getattr(module, "__file__", None))
    }
    ours = sorted(file for file in files if file.is_relative_to(_PACKAGE))
    return "\n".join(f"{file.relative_to(_PACKAGE)} {sha256(file)}" for file in ours)
