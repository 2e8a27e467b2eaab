"""The reviewer's page: verdict first, every rule told, nothing loaded, nothing invented."""

import html
import re

from safeclip.gate.rules import Difference
from safeclip.report.page import Findings, learning_curves
from safeclip.report.page import make_report as make_page
from safeclip.report.sections import measures, slices
from tests.evaluation.page_evidence import rule, spread, tree

HOSTILE = '"><script>alert(1)</script><img src=https://example.org/x>'


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
    evidence["verdict"]["rules"][0]["reason"] = HOSTILE
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
