"""A small project with real git, DVC, outcomes, verdict and signing keys: all that a release stands on."""

from __future__ import annotations

import contextlib
import json
import shutil
import subprocess
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pyarrow as pa
from dvc.repo import Repo

from safeclip.core.files import sha256, write_json
from safeclip.core.records import write_table
from safeclip.evaluation.summary import summarise
from safeclip.gate.verdict import decide, read_evidence
from safeclip.metrics.intervals import Resampling
from safeclip.metrics.outcomes import SLICED_OUTCOMES, measured
from safeclip.pipeline.checkout import override_params
from safeclip.release.approval import ReleaseRegistry, ask, sign
from safeclip.release.releases import Release
from safeclip.release.reviews import Review
from safeclip.settings import load_settings
from tests.gate.evidence import GOOD, share
from tests.support.toy import PROJECT, run

RULE = {
    "id": "harmful_t2i",
    "metric": "retrieval.t2i.unsafe.harmful_top1",
    "against": "base",
    "op": "<=",
    "factor": 0.7,
    "why": "a rule of the test",
}
DVC = """
stages:
  gate: {cmd: "true", outs: [results/finetune, results/evaluate, results/gate]}
  package: {cmd: python package.py, deps: [package.py, results/gate], outs: [results/package]}
"""
PACKAGE = """
import hashlib, json
from pathlib import Path
out = Path("results/package")
out.mkdir(parents=True, exist_ok=True)
weights = Path("results/finetune/adapter.safetensors").read_bytes()
bento = b"bento of " + weights
(out / "safeclip-embedder.tar").write_bytes(bento)
version, digest = hashlib.sha256(weights).hexdigest()[:12], hashlib.sha256(bento).hexdigest()
package = {"name": "safeclip-embedder", "version": version, "bento": digest}
(out / "package.json").write_text(json.dumps(package))
"""


@dataclass(frozen=True)
class Project:
    """A checkout in which a candidate has passed its gate; `alice` and `bob` review, `mallory` does not."""

    root: Path
    keys: Path

    def key(self, name: str) -> Path:
        return self.keys / name

    @property
    def registry(self) -> ReleaseRegistry:
        return ReleaseRegistry.of(self.root)

    def candidate(self, harm: float = 0.2, weights: str | bytes = "w1") -> None:
        """Lay down another candidate, as a run would: outcomes, metrics, verdict, Bento, dvc.lock."""
        results = self.root / "results"
        for name in ("finetune", "evaluate", "gate", "package"):
            (results / name).mkdir(parents=True, exist_ok=True)
            for old in (results / name).iterdir():
                old.unlink()
        whole = weights.encode() if isinstance(weights, str) else weights
        (results / "finetune/adapter.safetensors").write_bytes(whole)
        write_table(results / "evaluate/outcomes.parquet", outcomes(harm, self._assigned()), SLICED_OUTCOMES)
        found = measured(outcomes(harm, self._assigned()))
        metrics = summarise(found, Resampling(1))
        metrics["digests"] = {
            "candidate_adapter": sha256(results / "finetune/adapter.safetensors"),
            "outcomes": sha256(results / "evaluate/outcomes.parquet"),
            "production": sha256(self.root / "release/production.json"),
        }
        write_json(results / "evaluate/metrics.json", metrics)
        settings = load_settings(self.root / "params.yaml")
        write_json(
            results / "gate/verdict.json", decide(read_evidence(self.root), settings.gate, settings.seed)
        )
        self.do("python", "package.py")
        self.commit_outputs()

    def commit_outputs(self) -> None:
        """Let DVC take the results as they are (`dvc commit --force`)."""
        with contextlib.chdir(self.root), Repo(".") as repo:
            repo.commit(force=True)

    def do(self, *command: str) -> subprocess.CompletedProcess[str]:
        """Run a command here; it must succeed."""
        done = run(self.root, *command)
        assert done.returncode == 0, done.stdout + done.stderr
        return done

    def _assigned(self) -> bool:
        return bool(json.loads((self.root / "release/production.json").read_text())["assigned"])


def outcomes(harm: float, assigned: bool, n: int = 1000) -> pa.Table:
    """The outcomes of a good candidate with this harmful top-1 rate from text to image."""
    parts = []
    for metric, (ours, base) in (GOOD | {"retrieval.t2i.unsafe.harmful_top1": (harm, 0.95)}).items():
        ours_, base_ = share(ours, n), share(base, n)
        columns = {
            "id": [f"{row:05}" for row in range(n)],
            "metric": [metric] * n,
            "categories": [["violence"]] * n,
            "candidate": ours_,
            "base": base_,
            "production": np.asarray(ours_) if assigned else [None] * n,
            "slices": [[]] * n,
        }
        parts.append(pa.table(columns, schema=SLICED_OUTCOMES))
    return pa.concat_tables(parts)


def make_project(folder: Path, weights: str | bytes = "w1", **sections: object) -> Project:
    """The project with its first candidate, everything committed; `sections` change params.yaml."""
    root, keys = folder / "project", folder / "keys"
    root.mkdir(parents=True)
    keys.mkdir()
    for name in ("alice", "bob", "mallory"):
        command = ["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-C", name, "-f", str(keys / name)]
        subprocess.run(command, check=True)
    signers = [f"{name}@example.org {(keys / f'{name}.pub').read_text()}" for name in ("alice", "bob")]
    (root / "allowed_signers").write_text("".join(signers))
    shutil.copyfile(PROJECT / "params.yaml", root / "params.yaml")
    override_params(root, {"seed": 1, "gate": {"rules": [RULE]}, **sections})
    (root / "dvc.yaml").write_text(DVC)
    (root / "package.py").write_text(PACKAGE)
    (root / "release").mkdir()
    (root / "release/production.json").write_text('{"assigned": false, "digests": {}, "version": null}\n')
    (root / ".gitignore").write_text("/results\n/registry\n/production\n/remote\n")
    project = Project(root, keys)
    project.do("git", "init", "-q", "-b", "main")
    project.do("git", "config", "user.name", "runner")
    project.do("git", "config", "user.email", "runner@example.org")
    project.do("dvc", "init", "-q")
    project.do("dvc", "remote", "add", "-q", "-d", "default", "remote")
    project.candidate(weights=weights)
    project.do("git", "add", "-A")
    project.do("git", "commit", "-qm", "first")
    return project


def put_forward(project: Project) -> Review:
    return ask(project.registry)


def promoted(project: Project, by: str = "alice", harm: float = 0.2, weights: str = "w1") -> Release:
    if weights != "w1":
        project.candidate(harm, weights)
    return sign(project.registry, put_forward(project), project.key(by), "it passed")
