"""package: build one Bento of the merged weights and the service, after a passed verdict only."""

from __future__ import annotations

import json
import os
import shutil
import tempfile
from pathlib import Path
from typing import Any

from safeclip.core.artifacts import ADAPTER, PROBES, VERDICT, WORK, DataFolder
from safeclip.core.errors import DataError, GateError, ModelError
from safeclip.core.files import sha256, write_json
from safeclip.core.stage import main, output
from safeclip.encoders.load import Encoder
from safeclip.encoders.lora import load_candidate
from safeclip.packaging.bento import ModelFacts, build_bento, model_card, write_model
from safeclip.settings import Settings

SCRATCH = WORK / "package"


def package(settings: Settings) -> None:
    """Write results/package/: NAME.tar, model_card.md and package.json (version and digests)."""
    verdict = passed_verdict(VERDICT)
    base = DataFolder(Path(settings.data.path)).base_encoder
    lineage = {"adapter": sha256(ADAPTER), "verdict": sha256(VERDICT), "data": sha256(Path("data.dvc"))}
    card = model_card(verdict, lineage)
    shutil.rmtree(SCRATCH, ignore_errors=True)  # of a run that was killed
    SCRATCH.mkdir(parents=True)
    with output("package") as out, tempfile.TemporaryDirectory(dir=SCRATCH) as scratch:
        os.environ["BENTOML_HOME"] = str(Path(scratch).resolve())  # before BentoML is imported
        model = Path(scratch) / "model"
        candidate = load_candidate(base, ADAPTER)
        facts = ModelFacts(scoring=_probes(PROBES, candidate), metrics=_metrics(verdict))
        version = write_model(model, candidate, base, lineage, facts)
        (model / "model_card.md").write_text(card, encoding="utf-8")
        target = out / f"{settings.package.name}.tar"
        build_bento(Path.cwd(), model, card, settings.package.name, version, target)
        (out / "model_card.md").write_text(card, encoding="utf-8")
        record = {"name": settings.package.name, "version": version, "bento": sha256(target), **lineage}
        write_json(out / "package.json", record)
        print(f"{settings.package.name}:{version}, {target.stat().st_size / 1e6:.1f} MB")


def _probes(path: Path, candidate: Encoder) -> dict[str, Any]:
    """Read the fitted probes.

    Raises:
        ModelError: they are missing or of another candidate.
        DataError: none could be fitted; its message says why.
    """
    try:
        probes: dict[str, Any] = json.loads(path.read_text())
    except (OSError, ValueError):
        raise ModelError(f"{path}: missing or not JSON; run `safeclip stage fit_probes`") from None
    if probes.get("candidate") != candidate.digest:
        raise ModelError(f"{path}: of another candidate; run `safeclip stage fit_probes` again")
    if "fault" in probes:
        raise DataError(f"no probe could be fitted: {probes['fault']}")
    return dict(probes["scoring"])


def _metrics(verdict: dict[str, Any]) -> list[dict[str, Any]]:
    names = ("id", "metric", "against", "n", "estimate", "low", "high", "bound")
    return [{name: rule[name] for name in names} for rule in verdict["rules"]]


def passed_verdict(path: Path) -> dict[str, Any]:
    """Read the verdict, if it passed; `GateError` names the failed rules otherwise."""
    try:
        verdict: dict[str, Any] = json.loads(path.read_text())
    except FileNotFoundError:
        raise GateError(f"{path}: no verdict yet; run `safeclip stage gate` first") from None
    except ValueError:
        raise GateError(f"{path}: not readable as JSON; run `safeclip stage gate` again") from None
    if verdict.get("passed") is not True:
        failed = [rule["id"] for rule in verdict.get("rules", []) if not rule["passed"]]
        raise GateError(f"the gate failed ({', '.join(failed) or 'no rule held'}); nothing is packaged")
    return verdict


if __name__ == "__main__":
    main(package)
