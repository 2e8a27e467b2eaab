"""Put verdict, metrics, data and curves on one page for the reviewer: results/report/index.html."""

from __future__ import annotations

import csv
import json
from pathlib import Path
from typing import Any

from safeclip.errors import DataError
from safeclip.evaluation.report import GRIDS, make_report
from safeclip.settings.report import Report
from safeclip.settings.stage import StageSettings
from safeclip.stages.stage import RESULTS, main, output


class Settings(StageSettings):
    report: Report = Report()


def report(settings: Settings) -> None:
    """Write the page; a missing or broken input is a `DataError` that names the stage to run."""
    page = make_report(
        title=settings.report.title,
        verdict=_read_json("gate", "verdict.json"),
        metrics=_read_json("evaluate", "metrics.json"),
        data=_read_json("validate_data", "summary.json"),
        history=_read_history(RESULTS / "finetune" / "history.csv"),
        grids=_read_grids(RESULTS / "evaluate" / "grids"),
    )
    with output("report") as out:
        (out / "index.html").write_text(page, encoding="utf-8")
    print(f"report: {RESULTS}/report/index.html, {len(page) / 1e6:.1f} MB", flush=True)


def _read_json(stage: str, name: str) -> dict[str, Any]:
    path = RESULTS / stage / name
    try:
        value = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        raise DataError(f"{path}: missing or not JSON; run the stage {stage}") from None
    if not isinstance(value, dict):
        raise DataError(f"{path}: must hold an object; run the stage {stage}")
    return value


def _read_history(path: Path) -> list[dict[str, float | None]]:
    """Lines of history.csv; an empty field (no validation at that step) is None."""
    try:
        with path.open(encoding="utf-8", newline="") as file:
            lines = list(csv.DictReader(file))
        return [{key: float(value) if value else None for key, value in line.items()} for line in lines]
    except (OSError, ValueError, TypeError):
        raise DataError(f"{path}: missing or not a table of numbers; run the stage finetune") from None


def _read_grids(folder: Path) -> dict[str, bytes]:
    return {name: path.read_bytes() for name in GRIDS if (path := folder / f"{name}.png").is_file()}


if __name__ == "__main__":
    main(report, Settings)
