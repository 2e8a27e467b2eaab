"""What the gate looks at, read from where `evaluate` and `finetune` left it."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from safeclip.errors import DataError
from safeclip.gating.verdict import Evidence
from safeclip.outcomes import SLICED_OUTCOMES, measured
from safeclip.production import PRODUCTION, read_production, sha256
from safeclip.records import read_table

METRICS = Path("results/evaluate/metrics.json")
OUTCOMES_FILE = Path("results/evaluate/outcomes.parquet")
ADAPTER = Path("results/finetune/adapter.safetensors")


def read_evidence(root: Path = Path()) -> Evidence:
    """What stands in `root`/results/evaluate, with the digests of the files as they are now."""
    return Evidence(
        found=measured(read_table(root / OUTCOMES_FILE, SLICED_OUTCOMES)),
        metrics=_read_metrics(root / METRICS),
        assigned=read_production(root / PRODUCTION).assigned,
        digests={
            "metrics": _digest(root / METRICS),
            "outcomes": _digest(root / OUTCOMES_FILE),
            "production": _digest(root / PRODUCTION),
            "candidate_adapter": _digest(root / ADAPTER),
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
