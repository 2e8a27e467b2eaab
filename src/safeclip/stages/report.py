"""Put verdict, metrics, data, curves and evidence on one page for the reviewer: results/report/index.html."""

from __future__ import annotations

import csv
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from safeclip.core import artifacts
from safeclip.core.errors import DataError
from safeclip.core.files import sha256
from safeclip.core.production import PRODUCTION, Production, read_production
from safeclip.core.records import read_dataset
from safeclip.core.stage import RESULTS, main, output
from safeclip.gate.rules import Difference, compare_rules
from safeclip.report.page import Findings, make_report
from safeclip.report.sections import MODELS, Line, lookups
from safeclip.settings import Gate, Settings

_SHOWN = ("id", "categories", "caption_safe", "caption_generated", "image_safe", "image_generated")


def report(settings: Settings) -> None:
    """Write the page; a missing or broken input is a `DataError` that names the stage to run."""
    verdict, production = _read_json("gate", "verdict.json"), read_production(PRODUCTION)
    metrics = _read_json("evaluate", "metrics.json")
    _check_judged(verdict)
    audit = _read_optional("audit")
    found = Findings(
        verdict=verdict,
        metrics=metrics,
        data=_read_json("validate_data", "summary.json"),
        history=_read_history(artifacts.HISTORY),
        production=production.version,
        differences=_differences(production, settings.gate),
        retrieved=_read_retrieved(settings.report.uncover),
        points=_read_points(artifacts.FRONTIER),
        generate=_read_optional("generate"),
        red_team=_read_optional("red_team"),
        audit=audit,
        pictures=_read_pictures(audit),
    )
    page = make_report(settings.report.title, found)
    with output("report") as out:
        (out / "index.html").write_text(page, encoding="utf-8")
    print(f"report: {RESULTS}/report/index.html, {len(page) / 1e6:.1f} MB", flush=True)


def _check_judged(verdict: Mapping[str, Any]) -> None:
    """The page shows the metrics that the gate judged, or nothing."""
    judged, metrics = (verdict.get("digests") or {}).get("metrics"), artifacts.metrics("evaluate")
    if judged is not None and judged != sha256(metrics):
        raise DataError(f"{metrics}: not the file that the gate judged; run the stage gate")


def _differences(production: Production, gate: Gate) -> list[Difference] | None:
    """Against the rules that production was promoted under; None if they are not on record."""
    if production.gate is None:
        return None
    try:
        before = Gate.model_validate(production.gate)
    except ValidationError as error:
        fault = error.errors()[0]["msg"]
        fix = f"restore it from git (`git checkout {PRODUCTION}`)"
        raise DataError(f"{PRODUCTION}: `gate` holds no rules ({fault}); {fix}") from None
    return compare_rules(before, gate)


def _read_json(stage: str, name: str) -> dict[str, Any]:
    path = RESULTS / stage / name
    try:
        value = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        raise DataError(f"{path}: missing or not JSON; run the stage {stage}") from None
    if not isinstance(value, dict):
        raise DataError(f"{path}: must hold an object; run the stage {stage}")
    return value


def _read_optional(stage: str) -> dict[str, Any] | None:
    """metrics.json of a stage that may not have run."""
    return _read_json(stage, "metrics.json") if artifacts.metrics(stage).exists() else None


def _read_retrieved(uncover: bool) -> Sequence[tuple[str, str, Sequence[Line]]]:
    retrieved = _read_json("evaluate", "retrieved.json")
    rows = {row["id"]: row for row in read_dataset(artifacts.DATASET, "test").select(_SHOWN).to_pylist()}
    return lookups(retrieved, rows, MODELS, uncover)


def _read_points(path: Path) -> list[dict[str, Any]]:
    """Points of the frontier, if the benchmark has written any."""
    if not path.is_file():
        return []
    try:
        points = json.loads(path.read_text(encoding="utf-8"))["points"]
        numbers = ("share", "harmful_t2i", "harmful_i2t", "safe_r1_drop", "zeroshot_drop")
        return [
            {"objective": str(p["objective"]), **{name: float(p[name]) for name in numbers}} for p in points
        ]
    except (ValueError, KeyError, TypeError):
        fix = "write it again with benchmarks/objectives.py --frontier"
        raise DataError(f"{path}: not the points of a frontier; {fix}") from None


def _read_pictures(audit: Mapping[str, Any] | None) -> dict[str, bytes]:
    """PNGs that stages drew for the page, unsafe content blurred in their pixels."""
    grids = sorted(artifacts.GRIDS.glob("*.png"))
    named = {f"{path.stem} prompts, same seeds, base and candidate": path for path in grids}
    named |= {
        f"audit, {Path(name).stem}": RESULTS / "audit" / name for name in (audit or {}).get("figures", ())
    }
    return {name: path.read_bytes() for name, path in named.items() if path.is_file()}


def _read_history(path: Path) -> list[dict[str, float | None]]:
    """Lines of history.csv; an empty field (no validation at that step) is None."""
    try:
        with path.open(encoding="utf-8", newline="") as file:
            lines = list(csv.DictReader(file))
        return [{key: float(value) if value else None for key, value in line.items()} for line in lines]
    except (OSError, ValueError, TypeError):
        raise DataError(f"{path}: missing or not a table of numbers; run the stage finetune") from None


if __name__ == "__main__":
    main(report)
