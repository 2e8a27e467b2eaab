"""A candidate: the commit and the digests of everything that a decision about it stands on, frozen.

Its id is the digest of these, so a candidate cannot change and keep its name. `check_candidate` refuses any
file that differs and computes the verdict again, with the code of whoever checks.
"""

from __future__ import annotations

import hashlib
import json
import tempfile
from pathlib import Path
from typing import Any

from pydantic import BaseModel, ConfigDict

from safeclip.core import artifacts
from safeclip.core.errors import GateError, RegistryError
from safeclip.core.files import sha256
from safeclip.gate.verdict import SLOW_EVIDENCE, decide, read_evidence
from safeclip.release.git import file_at
from safeclip.settings import Gate, load_settings

LOCK = Path("dvc.lock")
REQUIRED = {
    "lock": LOCK,
    "params": artifacts.PARAMS,
    "verdict": artifacts.VERDICT,
    "metrics": artifacts.metrics("evaluate"),
    "outcomes": artifacts.outcomes("evaluate"),
    "adapter": artifacts.ADAPTER,
    "package": artifacts.PACKAGE,
}
"""Name in `Candidate.digests` -> file."""
# A project need not have the stages that measure slow evidence.
OPTIONAL = {
    f"{stage}_{kind}": path
    for stage in SLOW_EVIDENCE
    for kind, path in (("metrics", artifacts.metrics(stage)), ("outcomes", artifacts.outcomes(stage)))
}
FROZEN = REQUIRED | OPTIONAL


class Candidate(BaseModel):
    """What would be released."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    commit: str
    bento: str
    digests: dict[str, str]

    @property
    def id(self) -> str:
        """12 hex digits that stand for all of it."""
        text = json.dumps(self.model_dump(), sort_keys=True)
        return hashlib.sha256(text.encode()).hexdigest()[:12]

    @property
    def files(self) -> tuple[str, ...]:
        """Every file that a decision about it reads, relative to the project's root."""
        frozen = (FROZEN[name] for name in self.digests if name in FROZEN)
        return tuple(path.as_posix() for path in (*frozen, artifacts.PRODUCTION))

    @property
    def branch(self) -> str:
        """The ref that keeps its commit."""
        return f"refs/heads/candidate/{self.id}"


def describe(folder: Path, commit: str) -> Candidate:
    """Describe the candidate whose files lie in `folder`, laid out like the project.

    Raises:
        GateError: a required file is missing, so that nothing was packaged.
    """
    for path in (*REQUIRED.values(), artifacts.PRODUCTION):
        if not (folder / path).is_file():
            raise GateError(f"{path} is missing: there is no packaged candidate; `safeclip run` makes one")
    digests = {name: sha256(folder / path) for name, path in FROZEN.items() if (folder / path).is_file()}
    return Candidate(commit=commit, bento=read_package(folder)["bento"], digests=digests)


def read_package(folder: Path) -> dict[str, str]:
    """Read package.json: the Bento's name, version and digest; `RegistryError` if it is none."""
    path = folder / artifacts.PACKAGE
    try:
        package = json.loads(path.read_text(encoding="utf-8"))
        return {name: str(package[name]) for name in ("name", "version", "bento")}
    except (ValueError, TypeError, KeyError):
        raise RegistryError(
            f"{path}: not a record of a packaged Bento; run `safeclip stage package` again"
        ) from None


def check_candidate(folder: Path, candidate: Candidate) -> dict[str, Any]:
    """Compute the verdict again from the outcomes in `folder` and return it, if it is the recorded one.

    Raises:
        GateError: the gate fails, or the recorded verdict is another.
        RegistryError: a file is not the one that was frozen.
    """
    for name, path in FROZEN.items():
        present = sha256(folder / path) if (folder / path).is_file() else None
        if present != candidate.digests.get(name):
            raise RegistryError(f"{path} is not the one of candidate {candidate.id}; run again and ask again")
    settings = load_settings(folder / artifacts.PARAMS)
    verdict = decide(read_evidence(folder), settings.gate, settings.seed)
    recorded = json.loads((folder / artifacts.VERDICT).read_text(encoding="utf-8"))
    if not verdict["passed"]:
        failed = [rule["id"] for rule in verdict["rules"] if not rule["passed"]]
        raise GateError(
            f"the gate failed ({', '.join(failed)}); it cannot be approved, it takes a new commit"
        )
    if verdict != recorded:
        raise GateError("verdict.json is not what its outcomes give; run `safeclip stage gate` and ask again")
    if read_package(folder)["bento"] != candidate.bento:
        raise RegistryError(f"package.json names another Bento than candidate {candidate.id}; ask again")
    return verdict


def gate_at(root: Path, commit: str) -> Gate:
    """Read the gate's rules from params.yaml as of a commit; `RegistryError` if it has none."""
    text = file_at(root, commit, artifacts.PARAMS.as_posix())
    if text is None:
        raise RegistryError(f"{commit[:12]} has no params.yaml; its rules cannot be compared")
    with tempfile.NamedTemporaryFile("w", suffix=".yaml") as file:
        file.write(text)
        file.flush()
        return load_settings(file.name).gate
