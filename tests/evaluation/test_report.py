"""The reviewer's page: verdict first, every rule told, nothing loaded, nothing invented."""

import csv
import io
import json
import re
from pathlib import Path

import pytest
from PIL import Image

from safeclip.errors import DataError
from safeclip.evaluation.report import learning_curves, make_report, measures, worst_categories
from safeclip.settings.project import Settings
from safeclip.stages.report import report

HOSTILE = '"><script>alert(1)</script><img src=https://example.org/x>'


def spread(estimate: float, n: int = 2000, width: float = 0.02) -> dict:
    return {"n": n, "estimate": estimate, "low": estimate - width, "high": estimate + width}


def tree(harm: float, recall: float) -> dict:
    """Intervals of one model as metrics.json nests them."""
    both = {
        "unsafe": {"harmful_top1": spread(harm), "redirection": spread(1 - harm), "r5": spread(1 - harm)},
        "safe": {"r1": spread(recall), "r5": spread(recall), "preference": spread(recall)},
        "generated_safe": {"over_redirection": spread(0.1, 300)},
    }
    categories = {
        name: {
            "retrieval": {
                way: {"unsafe": {"harmful_top1": spread(harm + add, 200)}} for way in ("t2i", "i2t")
            }
        }
        for name, add in (("hate", 0.0), ("violence", 0.1))
    }
    return {
        "retrieval": {"t2i": both, "i2t": both},
        "zeroshot": {"top1": spread(0.6, 600)},
        "categories": categories,
    }


def rule(name: str, passed: bool, **numbers) -> dict:
    base = {"estimate": -0.4, "low": -0.45, "high": -0.35, "bound": 0.0, "n": 1700}
    words = {"metric": "retrieval.t2i.unsafe.harmful_top1", "against": "base", "why": f"why of {name}"}
    return {"id": name, "passed": passed, **words, **base, **numbers}


def picture(side: int = 40) -> bytes:
    buffer = io.BytesIO()
    Image.new("RGB", (side, side), "#aabbcc").save(buffer, format="PNG")
    return buffer.getvalue()


@pytest.fixture
def evidence() -> dict:
    change = tree(-0.6, -0.01)
    change["zeroshot"]["top1"] = spread(-0.1, 600)
    unmeasured = {"estimate": None, "low": None, "high": None, "n": 0}
    return {
        "title": "a candidate",
        "verdict": {
            "passed": False,
            "rules": [rule("kept", True), rule("broken", False), rule("never", True, **unmeasured)],
            "digests": {"candidate_adapter": "abc123"},
        },
        "metrics": {
            "candidate": {}, "base": {}, "production": None, "n": {"scenes": 2000, "zeroshot": 600},
            "intervals": {"candidate": tree(0.3, 0.95), "base": tree(0.9, 0.96), "change": change},
        },
        "data": {
            "rows": {"in": 75, "out": 69, "quarantined": 5, "destroyed": 1},
            "splits": {"train": 40, "val": 9, "test": 20},
            "expectations": [{"passed": True}],
            "label_states": {"train": {"both_unsafe": 0.7, "neither_unsafe": None}},
            "quarantine": {"validate_data": {"image score is outside 0 to 1": 2}},
        },
        "history": [{"step": 1.0 * s, "total_loss": 2.0 / s, "val_harmful_t2i": None} for s in range(1, 9)],
        "grids": {"unsafe_t2i": picture()},
    }  # fmt: skip


def text_of(page: str) -> str:
    return re.sub(r"\s+", " ", re.sub(r"<style>.*?</style>|<[^>]+>", " ", page, flags=re.S))


def test_the_verdict_comes_first_and_names_what_broke(evidence):
    text = text_of(make_report(**evidence))
    assert "Failed: 2 of 3 rules hold" in text
    assert text.index("Broken: broken") < text.index("The rules") < text.index("Candidate against base")
    evidence["verdict"] = {"passed": True, "rules": [rule("kept", True)], "digests": {}}
    assert "Passed: 1 of 1 rules hold" in text_of(make_report(**evidence))


def test_every_rule_is_told_with_its_numbers_failed_ones_first(evidence):
    text = text_of(make_report(**evidence))
    for name in ("kept", "broken", "never"):
        assert f"why of {name}" in text
    assert text.index("why of broken") < text.index("why of kept")
    assert "−0.400 [−0.450, −0.350]" in text
    assert "not applicable" in text


def test_a_failed_rule_without_numbers_says_not_measured(evidence):
    nothing = {"estimate": None, "low": None, "high": None, "n": 0, "bound": None}
    evidence["verdict"]["rules"] = [rule("gone", False, **nothing)]
    row = text_of(re.search(r'<tr id="rule-gone".*?</tr>', make_report(**evidence), re.S).group())
    assert "failed" in row
    assert "not measured" in row
    assert "0.000" not in row


def test_a_metric_that_was_not_measured_is_never_zero(evidence):
    del evidence["metrics"]["intervals"]["candidate"]["zeroshot"]
    evidence["metrics"]["intervals"]["change"]["zeroshot"] = {"top1": {"n": 0, "estimate": None}}
    page = make_report(**evidence)
    row = text_of(re.search(r'<tr><th scope="row">Zero-shot accuracy</th>.*?</tr>', page, re.S).group())
    assert row.count("not measured") == 3
    assert "0.600" in row, "the base model was measured"


def test_a_change_is_read_by_its_interval_and_direction(evidence):
    wanted = {
        "zeroshot.top1": ("zero-shot", "higher"),
        "retrieval.t2i.unsafe.harmful_top1": ("harm", "lower"),
        "retrieval.t2i.safe.r1": ("recall", "higher"),
        "no.such.metric": ("nothing", "higher"),
    }
    readings = {row.name: row.tendency for row in measures(evidence["metrics"], wanted)}
    assert readings == {
        "zero-shot": "worse", "harm": "better", "recall": "no clear change", "nothing": "not measured",
    }  # fmt: skip


def test_production_has_its_columns_when_there_is_one(evidence):
    assert "No version is in production" in make_report(**evidence)
    evidence["metrics"]["production"] = {"zeroshot": {"top1": 0.5}}
    evidence["metrics"]["intervals"]["production"] = tree(0.2, 0.9)
    evidence["metrics"]["intervals"]["change_production"] = tree(0.1, 0.05)
    page = make_report(**evidence)
    assert '<th scope="col" class="num">Production</th>' in page
    assert "Change from production" in page


def test_categories_come_worst_first_and_unmeasured_harm_is_the_worst(evidence):
    assert [row["name"] for row in worst_categories(evidence["metrics"])] == ["violence", "hate"]
    evidence["metrics"]["intervals"]["candidate"]["categories"]["hate"] = {"retrieval": {}}
    assert [row["name"] for row in worst_categories(evidence["metrics"])] == ["hate", "violence"]


def test_the_page_loads_nothing(evidence):
    page = make_report(**evidence)
    assert "<script" not in page
    targets = re.findall(r"(?:src|href|url)\s*[=(]\s*[\"']?([^\"')\s>]+)", page)
    assert targets
    assert all(target.startswith(("data:image/png;base64,", "#")) for target in targets)
    assert "default-src 'none'" in page


def test_hostile_text_is_text(evidence):
    evidence["title"] = HOSTILE
    evidence["verdict"]["rules"][0]["why"] = HOSTILE
    evidence["verdict"]["digests"][HOSTILE] = HOSTILE
    evidence["data"]["quarantine"] = {HOSTILE: {HOSTILE: 1}}
    page = make_report(**evidence)
    assert "<script" not in page
    assert "<img src=https" not in page


def test_every_picture_has_a_text_and_the_only_pictures_are_the_grids(evidence):
    page = make_report(**evidence)
    images = re.findall(r"<img\b[^>]*>", page)
    assert len(images) == 1
    assert "Unsafe pictures are blurred" in images[0]
    assert 'width="40" height="40"' in images[0]
    assert all('aria-label="' in svg for svg in re.findall(r"<svg\b[^>]*>", page))


def test_curves_leave_out_steps_without_validation():
    history = [
        {"step": 1.0, "total_loss": 2.0, "val_harmful_t2i": None},
        {"step": 2.0, "total_loss": 1.0, "val_harmful_t2i": 0.5},
    ]
    loss, validation = learning_curves(history)
    assert loss.count("<polyline") == 1
    assert len(re.search(r'points="([^"]+)"', validation).group(1).split()) == 1
    assert learning_curves([]) == []


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
    Path("results/evaluate/grids").mkdir()
    Path("results/evaluate/grids/unsafe_t2i.png").write_bytes(picture())
    Path("results/finetune").mkdir()
    with Path("results/finetune/history.csv").open("w", newline="") as file:
        writer = csv.DictWriter(file, list(evidence["history"][0]))
        writer.writeheader()
        writer.writerows(evidence["history"])
    return Path("results")


def test_the_stage_writes_the_same_page_twice(results, evidence):
    report(Settings())
    first = (results / "report/index.html").read_bytes()
    report(Settings())
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
        report(Settings())
    (results / path).unlink()
    with pytest.raises(DataError, match=f"run the stage {stage}"):
        report(Settings())
    assert not (results / "report").exists()
