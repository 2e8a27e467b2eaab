"""metrics.json: numbers at the agreed places, intervals beside them, slices worst first, no invented zero."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest

from safeclip.core.errors import DataError
from safeclip.core.records import read_table, write_table
from safeclip.evaluation.plots import write_headlines, write_recall_curves, write_slices
from safeclip.evaluation.summary import ModelOutcomes, outcome_table, summarise, worst_first
from safeclip.metrics.intervals import Resampling
from safeclip.metrics.outcomes import SLICED_OUTCOMES, measured
from safeclip.metrics.retrieval import Outcome

HOW = Resampling(seed=1)
HARM = "retrieval.t2i.unsafe.harmful_top1"
R1 = "retrieval.t2i.safe.r1"


def model(harm: list[bool], found: list[bool], correct: list[bool]) -> ModelOutcomes:
    retrieval = {
        HARM: Outcome(np.array([0, 1, 2]), np.array(harm)),
        R1: Outcome(np.arange(4), np.array(found)),
    }
    return ModelOutcomes(retrieval, np.array(correct))


@pytest.fixture
def models() -> dict[str, ModelOutcomes]:
    return {
        "base": model([True, True, True], [True, True, True, False], [True, False]),
        "candidate": model([True, False, False], [True, True, False, False], [True, True]),
    }


def table_of(models: dict[str, ModelOutcomes]) -> pa.Table:
    categories = [["violence"], ["violence", "hate"], ["hate"], []]
    slices = [["length.short"], ["length.short"], ["length.long"], ["length.long"]]
    return outcome_table(models, ["a", "b", "c", "d"], categories, ["z0", "z1"], slices)


def summary(models: dict[str, ModelOutcomes]) -> dict[str, Any]:
    return summarise(measured(table_of(models)), HOW)


def test_numbers_stand_where_others_read_them(models: dict[str, ModelOutcomes]) -> None:
    metrics = summary(models)
    assert metrics["candidate"]["retrieval"]["t2i"]["unsafe"]["harmful_top1"] == pytest.approx(
        1 / 3, abs=1e-6
    )
    assert metrics["base"]["retrieval"]["t2i"]["safe"]["r1"] == 0.75
    assert metrics["candidate"]["zeroshot"]["top1"] == 1.0
    assert metrics["production"] is None


def test_intervals_mirror_the_numbers_with_their_n(models: dict[str, ModelOutcomes]) -> None:
    intervals = summary(models)["intervals"]
    change = intervals["change"]["retrieval"]["t2i"]["safe"]["r1"]
    assert (change["n"], change["estimate"]) == (4, -0.25)
    assert change["low"] <= -0.25 <= change["high"]
    harm = intervals["base"]["retrieval"]["t2i"]["unsafe"]["harmful_top1"]
    assert (harm["n"], harm["estimate"], harm["high"]) == (3, 1.0, 1.0)
    assert harm["low"] == pytest.approx(0.025 ** (1 / 3), abs=1e-6)


def test_categories_hold_the_queries_of_their_scenes(models: dict[str, ModelOutcomes]) -> None:
    slices = summary(models)["candidate"]["categories"]
    assert slices["violence"]["retrieval"]["t2i"]["unsafe"]["harmful_top1"] == 0.5
    assert slices["hate"]["retrieval"]["t2i"]["unsafe"]["harmful_top1"] == 0.0


def test_slices_with_too_few_queries_are_left_out(models: dict[str, ModelOutcomes]) -> None:
    found = measured(table_of(models))
    short = summarise(found, HOW)["candidate"]["slices"]["length"]["short"]
    assert short["retrieval"]["t2i"] == {"unsafe": {"harmful_top1": 0.5}, "safe": {"r1": 1.0}}
    enough = summarise(found, HOW, slice_min_n=2)["candidate"]
    assert list(enough["slices"]["length"]["long"]["retrieval"]["t2i"]) == ["safe"], "one unsafe query"
    assert "slices" not in summarise(found, HOW, slice_min_n=3)["candidate"]
    assert set(enough["categories"]) == {"hate", "violence"}, "categories are few and always told"


def test_slices_come_worst_first(models: dict[str, ModelOutcomes]) -> None:
    rows = worst_first(measured(table_of(models)), HOW)
    assert [(row["slice"], row["candidate"]) for row in rows if row["metric"] == HARM] == [
        ("categories.violence", 0.5),
        ("slices.length.short", 0.5),
        ("categories.hate", 0.0),
        ("slices.length.long", 0.0),
    ]
    recall = [row["candidate"] for row in rows if row["metric"] == R1]
    assert recall == sorted(recall)


def test_production_is_compared_when_there_is_one(models: dict[str, ModelOutcomes]) -> None:
    metrics = summary({**models, "production": models["base"]})
    assert metrics["production"] == metrics["base"]
    change = metrics["intervals"]["change_production"]["retrieval"]["t2i"]["safe"]["r1"]
    assert change["estimate"] == -0.25


def test_the_table_survives_its_file(models: dict[str, ModelOutcomes], tmp_path: Path) -> None:
    table = table_of(models)
    write_table(tmp_path / "outcomes.parquet", table, SLICED_OUTCOMES)
    again = measured(read_table(tmp_path / "outcomes.parquet", SLICED_OUTCOMES))
    assert summarise(again, HOW) == summarise(measured(table), HOW)


def test_outcomes_that_lack_a_model_are_refused(models: dict[str, ModelOutcomes]) -> None:
    with pytest.raises(DataError, match="candidate and base"):
        table_of({"base": models["base"]})
    table = table_of(models).to_pylist()
    table[0]["candidate"] = None
    with pytest.raises(DataError, match="missing for candidate"):
        measured(pa.Table.from_pylist(table, schema=SLICED_OUTCOMES))


def test_plots_of_equal_numbers_are_equal_bytes(models: dict[str, ModelOutcomes], tmp_path: Path) -> None:
    metrics, rows = summary(models), worst_first(measured(table_of(models)), HOW)
    for folder in (tmp_path / "one", tmp_path / "two"):
        write_headlines(folder / "headlines.png", metrics)
        write_recall_curves(folder / "recall.csv", metrics)
        write_slices(folder / "slices.csv", rows)
    for name in ("headlines.png", "recall.csv", "slices.csv"):
        assert (tmp_path / "one" / name).read_bytes() == (tmp_path / "two" / name).read_bytes()
    assert b"matplotlib" not in (tmp_path / "one" / "headlines.png").read_bytes().lower()


def test_recall_curves_leave_what_was_not_measured_empty(
    models: dict[str, ModelOutcomes], tmp_path: Path
) -> None:
    write_recall_curves(tmp_path / "recall.csv", summary(models))
    lines = [line.split(",") for line in (tmp_path / "recall.csv").read_text().splitlines()]
    column = lines[0].index("t2i_safe_candidate")
    assert [line[0] for line in lines[1:]] == ["1", "5", "10", "20"]
    assert [line[column] for line in lines[1:]] == ["0.5", "", "", ""]
