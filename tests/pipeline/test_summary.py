"""The last lines of a run."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from safeclip.pipeline.summary import MOST_LINES, plot_markdown, summary_lines, summary_markdown
from safeclip.pipeline.temporary_server import api_is_configured


def write_results(root: Path, *, passed: bool, rules: int = 3) -> None:
    tree = {
        "retrieval": {
            way: {"unsafe": {"harmful_top1": 0.98 - less}, "safe": {"r1": 0.9 + less / 100}}
            for way, less in (("t2i", 0.0), ("i2t", 0.0))
        },
        "zeroshot": {"top1": 0.66},
    }
    better = json.loads(json.dumps(tree).replace("0.98", "0.51"))
    all_rules = [
        {"id": f"r{i}", "figures": "change = 1; 1 > 0", "reason": "since so", "passed": passed}
        for i in range(rules)
    ]
    for name, value in {
        "evaluate/metrics.json": {"base": tree, "candidate": better, "production": None},
        "gate/verdict.json": {"passed": passed, "rules": all_rules},
    }.items():
        path = root / "results" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(json.dumps(value))
    if passed:
        (root / "results/package").mkdir()
        (root / "results/package/safeclip-embedder.tar").touch()


def test_a_passed_run_says_what_changed_and_what_to_type(tmp_path: Path) -> None:
    write_results(tmp_path, passed=True)
    lines = summary_lines(tmp_path)
    text = "\n".join(lines)
    assert "verdict: PASSED (3 of 3 gate rules kept)" in lines
    assert ["harmful", "top-1,", "text", "to", "image", "0.980", "0.510", "-0.470"] in [
        x.split() for x in lines
    ]
    for part in ("results/report/index.html", "safeclip-embedder.tar", "safeclip serve"):
        assert part in text
    assert len(lines) <= MOST_LINES == 25


def test_a_failed_run_names_the_broken_rules_and_stays_short(tmp_path: Path) -> None:
    write_results(tmp_path, passed=False, rules=40)
    lines = summary_lines(tmp_path)
    assert any(line.startswith("verdict: FAILED") for line in lines)
    assert "  broken: r0: change = 1; 1 > 0" in lines
    assert "Bento   none: the gate did not pass" in lines
    assert len(lines) <= MOST_LINES


def test_before_any_run_there_is_no_verdict(tmp_path: Path) -> None:
    assert "verdict: none, the gate has not run" in summary_lines(tmp_path)
    assert plot_markdown(tmp_path) == ""


def test_the_table_for_prefect_holds_states_and_metrics(tmp_path: Path) -> None:
    write_results(tmp_path, passed=True)
    text = summary_markdown(tmp_path, {"gate": "Cached"})
    assert "| gate | Cached |" in text
    assert "| zero-shot top-1 | 0.660 | 0.660 | +0.000 |" in text


@pytest.mark.parametrize(
    ("environment", "profiles", "configured"),
    [
        ({}, None, False),
        ({"PREFECT_API_URL": "http://x/api"}, None, True),
        ({}, 'active = "a"\n[profiles.a]\nPREFECT_API_URL = "http://x/api"\n', True),
        (
            {"PREFECT_PROFILE": "b"},
            'active = "a"\n[profiles.a]\nPREFECT_API_URL = "x"\n[profiles.b]\n',
            False,
        ),
        ({}, "not = [toml", False),
    ],
)
def test_a_configured_prefect_server_is_noticed(
    tmp_path: Path, environment: dict[str, str], profiles: str | None, configured: bool
) -> None:
    if profiles is not None:
        (tmp_path / "profiles.toml").write_text(profiles)
    assert api_is_configured({"PREFECT_HOME": str(tmp_path)} | environment) is configured
