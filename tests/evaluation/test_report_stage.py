"""The stage that writes the reviewer's page: the same bytes twice, inputs named, only what was judged."""

import csv
import json
from pathlib import Path

import pytest

from safeclip.core.errors import DataError
from safeclip.core.files import sha256
from safeclip.core.records import QUADRUPLETS, write_table
from safeclip.stages.report import report
from tests.evaluation.page_evidence import picture
from tests.support.params import make_settings


@pytest.fixture
def results(evidence, tmp_path, monkeypatch) -> Path:
    monkeypatch.chdir(tmp_path)
    for stage, name, key in (
        ("gate", "verdict.json", "verdict"),
        ("evaluate", "metrics.json", "metrics"),
        ("validate_data", "summary.json", "data"),
    ):
        folder = Path("results") / stage
        folder.mkdir(parents=True)
        (folder / name).write_text(json.dumps(evidence[key]))
    item = {"id": "a", "side": "generated", "unsafe": True}
    line = {"query": item, "found": {"base": [item], "candidate": [item]}}
    Path("results/evaluate/retrieved.json").write_text(json.dumps({"unsafe_t2i": [line]}))
    row = {
        "id": "a",
        "split": "test",
        "caption_safe": "a dog",
        "caption_generated": "SECRET",
        "categories": ["hate"],
    }
    row |= {"image_safe": picture(), "image_generated": picture(), "concept": "hate"}
    write_table(Path("results/validate_data/dataset/test-00000.parquet"), [row], QUADRUPLETS)
    Path("release").mkdir(exist_ok=True)
    Path("release/production.json").write_text('{"assigned": false}')
    Path("results/finetune").mkdir()
    with Path("results/finetune/history.csv").open("w", newline="") as file:
        writer = csv.DictWriter(file, list(evidence["history"][0]))
        writer.writeheader()
        writer.writerows(evidence["history"])
    return Path("results")


def test_the_stage_writes_the_same_page_twice(results, evidence):
    report(make_settings())
    first = (results / "report/index.html").read_bytes()
    report(make_settings())
    assert (results / "report/index.html").read_bytes() == first
    assert b"Failed: 2 of 3 rules hold" in first


@pytest.mark.parametrize(
    ("path", "stage"),
    [
        ("gate/verdict.json", "gate"),
        ("evaluate/metrics.json", "evaluate"),
        ("finetune/history.csv", "finetune"),
    ],
)
def test_a_missing_or_broken_input_names_the_stage_to_run(results, path, stage):
    (results / path).write_text("step,total_loss\n1,?\n")
    with pytest.raises(DataError, match=f"run the stage {stage}"):
        report(make_settings())
    (results / path).unlink()
    with pytest.raises(DataError, match=f"run the stage {stage}"):
        report(make_settings())
    assert not (results / "report").exists()


def test_metrics_that_the_gate_did_not_judge_are_not_shown(results, evidence):
    judged = evidence["verdict"] | {"digests": {"metrics": sha256(results / "evaluate/metrics.json")}}
    (results / "gate/verdict.json").write_text(json.dumps(judged))
    report(make_settings())
    (results / "evaluate/metrics.json").write_text(json.dumps(evidence["metrics"]) + " ")
    with pytest.raises(DataError, match="not the file that the gate judged; run the stage gate"):
        report(make_settings())


def test_the_rules_of_production_are_read_from_its_record(results):
    digests = '{"adapter": "00"}'
    head = f'"assigned": true, "version": "v1.2.0", "adapter": "a", "digests": {digests}'
    Path("release/production.json").write_text("{" + head + "}")
    report(make_settings())
    assert "are not on record" in (results / "report/index.html").read_text()
    gate = {
        "rules": [
            {"id": "gone", "metric": "zeroshot.top1", "op": ">=", "value": 0.1, "why": "a rule of old"}
        ],
        "bootstrap": 1000,
        "confidence": 0.95,
    }
    Path("release/production.json").write_text("{" + head + f', "gate": {json.dumps(gate)}' + "}")
    report(make_settings())
    assert "Rule loosened since production: gone (removed)." in (results / "report/index.html").read_text()
    Path("release/production.json").write_text("{" + head + ', "gate": {"rules": 3}}')
    with pytest.raises(DataError, match=r"production\.json: `gate` holds no rules"):
        report(make_settings())


@pytest.mark.parametrize("text", ["{}", '{"points": [{"objective": "a"}]}', '{"points": 3}', "x"])
def test_a_broken_frontier_file_is_named(results, text):
    Path("release/frontier.json").write_text(text)
    with pytest.raises(DataError, match=r"release/frontier\.json: not the points of a frontier"):
        report(make_settings())


@pytest.mark.parametrize("uncover", [True, False])
def test_the_page_holds_the_unsafe_text_only_if_it_may_be_uncovered(results, uncover):
    report(make_settings(report={"uncover": uncover}))
    page = (results / "report/index.html").read_text()
    assert "[unsafe caption: hate]" in page
    assert ("SECRET" in page) is uncover
    assert ("Show what is unsafe for query 1" in page) is uncover
