"""A passed verdict, merged weights and the service become one Bento file; a failed verdict is refused."""

from __future__ import annotations

import json
import os
import tempfile
from pathlib import Path
from typing import Any

from safeclip.encoders.lora import load_candidate
from safeclip.errors import GateError
from safeclip.production import sha256
from safeclip.registry.bento import build_bento
from safeclip.registry.card import model_card
from safeclip.registry.model import write_model
from safeclip.settings.package import Package
from safeclip.settings.stage import StageSettings
from safeclip.stages.stage import RESULTS, main, output, write_json

ADAPTER = RESULTS / "finetune" / "adapter.safetensors"
VERDICT = RESULTS / "gate" / "verdict.json"


class Settings(StageSettings):
    package: Package = Package()


def package(settings: Settings) -> None:
    """Write results/package/: NAME.tar, model_card.md and package.json (version and digests)."""
    verdict = passed_verdict(VERDICT)
    base = Path(settings.data.path) / "base_encoder"
    lineage = {"adapter": sha256(ADAPTER), "verdict": sha256(VERDICT), "data": sha256(Path("data.dvc"))}
    card = model_card(verdict, lineage)
    with output("package") as out, tempfile.TemporaryDirectory() as scratch:
        os.environ["BENTOML_HOME"] = scratch  # before BentoML is imported
        model = Path(scratch) / "model"
        version = write_model(model, load_candidate(base, ADAPTER), base, lineage)
        (model / "model_card.md").write_text(card, encoding="utf-8")
        target = out / f"{settings.package.name}.tar"
        build_bento(Path.cwd(), model, card, settings.package.name, version, target)
        (out / "model_card.md").write_text(card, encoding="utf-8")
        record = {"name": settings.package.name, "version": version, "bento": sha256(target), **lineage}
        write_json(out / "package.json", record)
        print(f"{settings.package.name}:{version}, {target.stat().st_size / 1e6:.1f} MB")


def passed_verdict(path: Path) -> dict[str, Any]:
    """The verdict, if it passed; `GateError` names the failed rules otherwise."""
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
    main(package, Settings)
