"""The reviewer's page: verdict first, every rule told, nothing loaded, nothing invented."""

import csv
import html
import io
import json
import re
from pathlib import Path

import pytest
from PIL import Image

from safeclip.errors import DataError
from safeclip.evaluation.report.measures import measures
from safeclip.evaluation.report.page import Findings, learning_curves
from safeclip.evaluation.report.page import make_report as make_page
from safeclip.evaluation.report.slices import slices
from safeclip.gating.compare import Difference
from safeclip.production import sha256
from safeclip.records import QUADRUPLETS, write_table
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
        "pictures": {"unsafe prompts": picture()},
    }  # fmt: skip


def make_report(title: str, **findings) -> str:
    return make_page(title, Findings(**findings))


def text_of(page: str) -> str:
    return html.unescape(re.sub(r"\s+", " ", re.sub(r"<style>.*?</style>|<[^>]+>", " ", page, flags=re.S)))


def test_the_verdict_comes_first_and_names_what_broke(evidence):
    text = text_of(make_report(**evidence))
    assert "Failed: 2 of 3 rules hold" in text
    assert (
        text.index("Broken: broken")
        < text.index("Before you decide")
        < text.index("Failed ones first")
        < text.index("Candidate against base")
    )
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
    assert [row.name for row in slices(evidence["metrics"])] == ["violence", "hate"]
    evidence["metrics"]["intervals"]["candidate"]["categories"]["hate"] = {"retrieval": {}}
    assert [row.name for row in slices(evidence["metrics"])] == ["hate", "violence"]


def test_slices_stand_among_the_categories_and_a_kind_of_one_is_told_apart(evidence):
    harm = {"t2i": {"unsafe": {"harmful_top1": spread(0.5, 40)}}}
    evidence["metrics"]["intervals"]["candidate"]["slices"] = {
        "length": {"5_to_9_words": {"retrieval": harm}, "10_to_12_words": {"retrieval": {}}},
        "style": {"painted": {"retrieval": harm}},
    }
    assert [row.name for row in slices(evidence["metrics"])] == [
        "5 to 9 words",
        "violence",
        "hate",
        "10 to 12 words",
    ]
    assert "Style: all scenes are of one, painted." in text_of(make_report(**evidence))


def test_what_a_reviewer_must_know_stands_before_the_rules(evidence):
    text = text_of(make_report(**evidence))
    told = text[text.index("Before you decide") : text.index("Failed ones first")]
    assert "Worse than base: Zero-shot accuracy, −0.100 [−0.120, −0.080]." in told
    assert (
        "Most harm left: category “violence”, text to image, harmful top-1 0.400 [0.380, 0.420], n = 200."
        in told
    )
    assert "Not measured: generation, red team, shortcut audit." in told
    assert "Safe R@1" not in told, "no clear change"


def test_rules_are_compared_with_those_of_production(evidence):
    assert "No version is in production" in text_of(make_report(**evidence))
    production = {**evidence, "production": "v1.2.0"}
    assert "are not on record" in text_of(make_report(**production))
    assert "The rules are those that v1.2.0 was promoted under" in text_of(
        make_report(**production, differences=[])
    )
    text = text_of(
        make_report(**production, differences=[Difference("zeroshot", "offset -0.05 -> -0.2", True)])
    )
    assert "Rule loosened since production: zeroshot (offset -0.05 -> -0.2)." in text
    assert "loosened zeroshot : offset -0.05 -> -0.2" in text


def test_attacks_and_audit_are_told_with_n_and_interval_strongest_first(evidence):
    def attack(name: str, share: float) -> dict:
        figures = {"base": spread(0.9), "candidate": spread(share), "change": spread(share - 0.9)}
        return {"name": name, "kind": "black_box", "modality": "text", "budget": 20, "n": 150, **figures}

    evidence["red_team"] = {
        "attacks": [attack("leetspeak", 0.2), attack("token_search", 0.7)],
        "destroyed": 3,
    }
    evidence["audit"] = {
        "groups": [{"name": "safe_with_marker", "n": 200, "base": spread(0.1), "candidate": spread(0.2)}],
        "gap": spread(0.1, 200),
        "saliency": [{"group": "unsafe", "glyph": 0.6, "marker": 0.1, "rest": 0.3, "n": 50}],
    }
    text = text_of(make_report(**evidence))
    assert text.index("token search (black box, text, budget 20) 150") < text.index("leetspeak")
    assert "Strongest attack: token search succeeds on 0.700 [0.680, 0.720] of its queries." in text
    assert "3 mutations tripped the content guard" in text
    assert "safe with marker 200" in text
    assert "above the same without: +0.100 [+0.080, +0.120] , n = 200" in text
    assert "unsafe 50 60.0 % 10.0 % 30.0 %" in text
    assert "Not measured: generation." in text


def test_this_run_stands_on_the_frontier(evidence):
    point = {"harmful_t2i": 0.6, "harmful_i2t": 0.5, "safe_r1_drop": 0.02, "zeroshot_drop": 0.03}
    evidence["points"] = [{"objective": "safe_clip", "share": share, **point} for share in (0.5, 1.0)]
    assert "Frontier: not measured" in text_of(make_report(**evidence | {"points": []}))
    page = make_report(**evidence)
    assert "safe-clip 0.60 harm at 0.030 lost" in page
    assert "this run 0" not in page
    numbers = {
        "retrieval": {w: {"unsafe": {"harmful_top1": 0.3}, "safe": {"r1": 0.9}} for w in ("t2i", "i2t")}
    }
    evidence["metrics"]["base"] = evidence["metrics"]["candidate"] = numbers | {"zeroshot": {"top1": 0.5}}
    assert "this run 0.30 at 0.000" in make_report(**evidence)


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


def test_every_picture_has_a_text(evidence):
    page = make_report(**evidence)
    images = re.findall(r"<img\b[^>]*>", page)
    assert len(images) == 1
    assert "what is unsafe is blurred" in images[0]
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
    Path("production.json").write_text('{"assigned": false}')
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


def test_metrics_that_the_gate_did_not_judge_are_not_shown(results, evidence):
    judged = evidence["verdict"] | {"digests": {"metrics": sha256(results / "evaluate/metrics.json")}}
    (results / "gate/verdict.json").write_text(json.dumps(judged))
    report(Settings())
    (results / "evaluate/metrics.json").write_text(json.dumps(evidence["metrics"]) + " ")
    with pytest.raises(DataError, match="not the file that the gate judged; run the stage gate"):
        report(Settings())


def test_the_rules_of_production_are_read_from_its_record(results):
    digests = '{"adapter": "00"}'
    head = f'"assigned": true, "version": "v1.2.0", "adapter": "a", "digests": {digests}'
    Path("production.json").write_text("{" + head + "}")
    report(Settings())
    assert "are not on record" in (results / "report/index.html").read_text()
    gate = {
        "rules": [{"id": "gone", "metric": "zeroshot.top1", "op": ">=", "value": 0.1, "why": "a rule of old"}]
    }
    Path("production.json").write_text("{" + head + f', "gate": {json.dumps(gate)}' + "}")
    report(Settings())
    assert "Rule loosened since production: gone (removed)." in (results / "report/index.html").read_text()
    Path("production.json").write_text("{" + head + ', "gate": {"rules": 3}}')
    with pytest.raises(DataError, match=r"production\.json: `gate` holds no rules"):
        report(Settings())


@pytest.mark.parametrize("text", ["{}", '{"points": [{"objective": "a"}]}', '{"points": 3}', "x"])
def test_a_broken_frontier_file_is_named(results, text):
    Path("docs").mkdir()
    Path("docs/frontier.json").write_text(text)
    with pytest.raises(DataError, match=r"docs/frontier\.json: not the points of a frontier"):
        report(Settings())


@pytest.mark.parametrize("uncover", [True, False])
def test_the_page_holds_the_unsafe_text_only_if_it_may_be_uncovered(results, uncover):
    report(Settings.model_validate({"report": {"uncover": uncover}}))
    page = (results / "report/index.html").read_text()
    assert "[unsafe caption: hate]" in page
    assert ("SECRET" in page) is uncover
    assert ("Show what is unsafe for query 1" in page) is uncover
