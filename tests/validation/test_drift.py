"""Drift is told against the data set that was accepted, by a command and a file under version control."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from safeclip.cli import main
from safeclip.core.errors import DataError
from safeclip.validation.health import distributions, drift, read_baseline
from safeclip.validation.page import summarise
from tests.validation.conftest import CATEGORIES


def test_a_data_set_does_not_drift_from_itself_and_does_when_labels_change(validated, rows):
    accepted = distributions(summarise(validated(rows), CATEGORIES))
    assert set(drift(accepted, accepted).values()) == {0.0}
    rows.loc[rows["split"] == "train", "image_label"] = "safe"
    moved = drift(accepted, distributions(summarise(validated(rows), CATEGORIES)))
    assert moved["label states"] > 0.2
    assert moved["categories"] == 0.0


def test_what_is_accepted_holds_shares_and_no_text(validated, rows):
    accepted = distributions(summarise(validated(rows), CATEGORIES))
    for shares in accepted.values():
        assert sum(shares.values()) == pytest.approx(1.0, abs=1e-4)
    assert "kettle" not in json.dumps(accepted)


def test_the_distance_does_not_depend_on_the_order_of_a_set() -> None:
    code = (
        "from safeclip.validation.health import drift;"
        "shares = {str(n): round(0.000001 * (n * n % 97), 6) for n in range(200)};"
        "print(drift({'lengths': shares}, {'lengths': {'0': 0.5}}))"
    )
    told = {
        subprocess.check_output([sys.executable, "-c", code], env=os.environ | {"PYTHONHASHSEED": seed})
        for seed in "123456"
    }
    assert len(told) == 1


@pytest.mark.parametrize("held", ["{", "[]", '{"states": 3}', '{"states": {"a": "b"}}'])
def test_a_broken_baseline_is_named(tmp_path: Path, held: str) -> None:
    path = tmp_path / "data_baseline.json"
    path.write_text(held)
    with pytest.raises(DataError, match=r"data_baseline\.json: not readable") as error:
        read_baseline(path)
    assert "\n" not in str(error.value)


def test_nothing_accepted_yet_is_an_empty_file(tmp_path: Path) -> None:
    path = tmp_path / "data_baseline.json"
    path.write_text("{}")
    assert read_baseline(path) == {}


def test_the_command_accepts_the_validated_data_set(tmp_path, monkeypatch, capsys, validated, rows):
    monkeypatch.chdir(tmp_path)
    Path("dvc.yaml").write_text("stages: {}\n")
    assert main(["data", "baseline"]) == 1
    assert "run the stage validate_data" in capsys.readouterr().err
    summary = summarise(validated(rows), CATEGORIES)
    Path("results/validate_data").mkdir(parents=True)
    Path("results/validate_data/summary.json").write_text(json.dumps(summary))
    assert main(["data", "baseline"]) == 0
    assert read_baseline() == distributions(summary)
