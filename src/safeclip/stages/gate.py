"""Rules over the outcomes of evaluation -> results/gate/verdict.json. Exits 0 whatever the verdict."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from safeclip.errors import DataError
from safeclip.gating.verdict import Evidence, decide, rule_lines
from safeclip.outcomes import measured
from safeclip.production import PRODUCTION, read_production, sha256
from safeclip.records import OUTCOMES, read_table
from safeclip.settings.gate import Gate
from safeclip.settings.stage import StageSettings
from safeclip.stages.stage import RESULTS, main, output, write_json

METRICS = RESULTS / "evaluate" / "metrics.json"
OUTCOMES_FILE = RESULTS / "evaluate" / "outcomes.parquet"
ADAPTER = RESULTS / "finetune" / "adapter.safetensors"
VERDICT = RESULTS / "gate" / "verdict.json"


class Settings(StageSettings):
    gate: Gate = Gate()


def gate(settings: Settings) -> None:
    """Write the verdict and print a line a rule."""
    verdict = decide(read_evidence(), settings.gate, settings.seed)
    with output("gate") as out:
        write_json(out / VERDICT.name, verdict)
    print("\n".join(rule_lines(verdict)), flush=True)


def read_evidence() -> Evidence:
    """What stands in results/evaluate, with the digests of the files as they are now."""
    return Evidence(
        found=measured(read_table(OUTCOMES_FILE, OUTCOMES)),
        metrics=_read_metrics(METRICS),
        assigned=read_production().assigned,
        digests={
            "metrics": _digest(METRICS),
            "outcomes": _digest(OUTCOMES_FILE),
            "production": _digest(PRODUCTION),
            "candidate_adapter": _digest(ADAPTER),
        },
    )


def _digest(path: Path) -> str:
    if not path.is_file():
        raise DataError(f"{path}: no such file; run the stage that writes it")
    return sha256(path)


def _read_metrics(path: Path) -> dict[str, Any]:
    """metrics.json; NaN passes here, since the gate names the metric that has it."""
    try:
        metrics = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise DataError(f"{path}: no such file; run evaluate") from None
    except ValueError as error:
        raise DataError(
            f"{path}: not valid JSON ({str(error).splitlines()[0]}); run evaluate again"
        ) from None
    if not isinstance(metrics, dict):
        raise DataError(f"{path}: must hold an object, not {type(metrics).__name__}; run evaluate again")
    return metrics


if __name__ == "__main__":
    main(gate, Settings)
