"""The gate's rules as they stood at a commit."""

from __future__ import annotations

import hashlib
import json
import tempfile
from pathlib import Path
from typing import Any

from pydantic import BaseModel, ConfigDict

from safeclip.core.errors import GateError, RegistryError
from safeclip.core.files import sha256
from safeclip.gate.verdict import SLOW_EVIDENCE, decide, read_evidence
from safeclip.release.git import file_at
from safeclip.settings import Gate, load_settings


def gate_at(root: Path, commit: str) -> Gate:
    """The section `gate` of that commit's params.yaml."""
    text = file_at(root, commit, "params.yaml")
    if text is None:
        raise RegistryError(f"{commit[:12]} has no params.yaml; its rules cannot be compared")
    with tempfile.NamedTemporaryFile("w", suffix=".yaml") as file:
        file.write(text)
        file.flush()
        return load_settings(file.name).gate


# A candidate, frozen: the commit and the digests of everything that a decision about it stands on.
#
# Its id is the digest of these, so a candidate cannot change and keep its name. `check_candidate` refuses any
# file that differs and computes the verdict again, with the code of whoever checks.


FILES = {
    "lock": "dvc.lock",
    "params": "params.yaml",
    "verdict": "results/gate/verdict.json",
    "metrics": "results/evaluate/metrics.json",
    "outcomes": "results/evaluate/outcomes.parquet",
    "adapter": "results/finetune/adapter.safetensors",
    "package": "results/package/package.json",
}
"""Name in `digests` -> where the file lies."""
SLOW_FILES = {
    f"{stage}_{name}": f"results/{stage}/{file}"
    for stage in SLOW_EVIDENCE
    for name, file in (("metrics", "metrics.json"), ("outcomes", "outcomes.parquet"))
}
"""Of the stages that a project may have or not."""
ALL_FILES = FILES | SLOW_FILES
NEEDED = (*FILES.values(), "release/production.json")


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
        """Where everything lies that a decision about it stands on."""
        return (*(ALL_FILES[name] for name in self.digests if name in ALL_FILES), "release/production.json")

    @property
    def branch(self) -> str:
        """The ref that keeps its commit."""
        return f"refs/heads/candidate/{self.id}"


def describe(folder: Path, commit: str) -> Candidate:
    """The candidate whose files lie in `folder`, laid out like the project; `GateError` without a Bento."""
    missing = [path for path in NEEDED if not (folder / path).is_file()]
    if missing:
        raise GateError(f"{missing[0]} is missing: there is no packaged candidate; `safeclip run` makes one")
    package = read_package(folder)
    return Candidate(
        commit=commit,
        bento=package["bento"],
        digests={
            name: sha256(folder / path) for name, path in ALL_FILES.items() if (folder / path).is_file()
        },
    )


def read_package(folder: Path) -> dict[str, str]:
    """package.json: the Bento's name, version and digest."""
    path = folder / FILES["package"]
    try:
        package = json.loads(path.read_text(encoding="utf-8"))
        return {name: str(package[name]) for name in ("name", "version", "bento")}
    except (ValueError, TypeError, KeyError):
        raise RegistryError(
            f"{path}: not a record of a packaged Bento; run `safeclip stage package` again"
        ) from None


def check_candidate(folder: Path, candidate: Candidate) -> dict[str, Any]:
    """The verdict, computed again from the outcomes in `folder`; refused unless it is the recorded one.

    `GateError` if the gate fails, `RegistryError` if a file is not the one that was frozen.
    """
    for name, path in ALL_FILES.items():
        present = sha256(folder / path) if (folder / path).is_file() else None
        if present != candidate.digests.get(name):
            raise RegistryError(f"{path} is not the one of candidate {candidate.id}; run again and ask again")
    settings = load_settings(folder / "params.yaml")
    verdict = decide(read_evidence(folder), settings.gate, settings.seed)
    recorded = json.loads((folder / FILES["verdict"]).read_text(encoding="utf-8"))
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
