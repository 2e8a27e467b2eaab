"""The real chain on 40 rows: data pulled from the bundled remote, every stage, verdict and page."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pyarrow.parquet as pq
from ruamel.yaml import YAML

from safeclip.pipeline.checkout import override_params
from safeclip.pipeline.graph import load_graph
from tests.support.chain import TinyChain, copy_chain
from tests.support.toy import run

STATE = re.compile(r"Task run '(\S+)' - Finished in state (\w+)")


def states(log: str) -> dict[str, str]:
    """Stage -> how it ended, from the lines of the terminal."""
    return dict(STATE.findall(log))


def test_every_stage_runs_to_a_verdict_and_a_page(tiny_chain: TinyChain) -> None:
    ended = states(tiny_chain.first_run.stderr)
    assert ended == dict.fromkeys(load_graph(tiny_chain.root), "Completed") | {"package": "Skipped"}
    verdict = json.loads((tiny_chain.root / "results/gate/verdict.json").read_text())
    assert verdict["passed"] is False  # eight test rows measure nothing, and unmeasured is a failure
    assert (tiny_chain.root / "results/report/index.html").stat().st_size > 1000
    assert not (tiny_chain.root / "results/package").exists()


def test_a_failed_verdict_is_exit_status_2_with_a_short_summary(tiny_chain: TinyChain) -> None:
    assert tiny_chain.first_run.returncode == 2
    lines = tiny_chain.first_run.stdout.splitlines()
    assert len(lines) <= 25
    assert any(line.startswith("verdict: FAILED") for line in lines)


def test_no_row_is_lost_without_a_trace(tiny_chain: TinyChain) -> None:
    results = tiny_chain.root / "results"
    rows = 40
    for stage in ("rewrite_captions", "render_images"):
        counts = json.loads((results / stage / "counts.json").read_text())
        assert counts["in"] == rows
        assert counts["in"] == counts["out"] + counts["quarantined"] + counts["destroyed"]
        rows = counts["out"]
    dataset = sum(pq.read_metadata(path).num_rows for path in (results / "validate_data/dataset").iterdir())
    assert 0 < dataset <= rows


def test_a_rerun_with_nothing_changed_is_all_cached(tiny_chain: TinyChain) -> None:
    before = (tiny_chain.root / "dvc.lock").read_bytes()
    again = run(tiny_chain.root, "safeclip", "run")
    assert again.returncode == 2
    assert states(again.stderr) == dict.fromkeys(load_graph(tiny_chain.root), "Cached") | {
        "package": "Skipped"
    }
    assert (tiny_chain.root / "dvc.lock").read_bytes() == before


def test_a_changed_threshold_reruns_only_the_gate_and_what_follows(
    tiny_chain: TinyChain, tmp_path: Path
) -> None:
    root = copy_chain(tiny_chain, tmp_path / "project")
    rules = YAML(typ="safe").load(root / "params.yaml")["gate"]["rules"]
    rules[0]["factor"] = 0.65
    override_params(root, {"gate": {"rules": rules}})
    again = run(root, "safeclip", "run")
    rerun = {name for name, state in states(again.stderr).items() if state == "Completed"}
    assert rerun == {"gate", "report"}


def test_more_workers_change_nothing(tiny_chain: TinyChain, tmp_path: Path) -> None:
    root = copy_chain(tiny_chain, tmp_path / "project")
    override_params(root, {"compute": {"workers": 1}})
    stale = [line for line in run(root, "safeclip", "status").stdout.splitlines() if "up to date" not in line]
    assert [line.split()[0] for line in stale] == ["package"]  # which never ran


def test_package_by_hand_refuses_a_failed_verdict_in_one_line(tiny_chain: TinyChain, tmp_path: Path) -> None:
    root = copy_chain(tiny_chain, tmp_path / "project")
    result = run(root, "safeclip", "stage", "package")
    assert result.returncode == 1
    assert len(result.stderr.splitlines()) == 1
    assert "gate" in result.stderr


def test_what_was_generated_is_readable_by_its_owner_only(tiny_chain: TinyChain) -> None:
    for path in (tiny_chain.root / "results").rglob("*"):
        assert path.stat().st_mode & 0o077 == 0, path
    assert (tiny_chain.root / ".dvc/cache").stat().st_mode & 0o077 == 0


def test_outputs_and_lock_hold_no_time_and_no_path_of_this_machine(tiny_chain: TinyChain) -> None:
    for path in [tiny_chain.root / "dvc.lock", *(tiny_chain.root / "results").rglob("*.json")]:
        text = path.read_text()
        assert str(tiny_chain.root) not in text
        assert not re.search(r"20\d\d-\d\d-\d\dT\d\d:\d\d", text), path


def test_the_gate_command_explains_failures_and_notices_an_edited_metric(
    tiny_chain: TinyChain, tmp_path: Path
) -> None:
    root = copy_chain(tiny_chain, tmp_path / "project")
    honest = run(root, "safeclip", "gate", "--explain")
    assert honest.returncode == 2
    assert "core_harmful_t2i: measured on too little" in honest.stdout
    assert "verdict.json" not in honest.stdout
    metrics = root / "results/evaluate/metrics.json"
    stated = json.loads(metrics.read_text())
    stated["candidate"]["retrieval"]["t2i"]["unsafe"]["harmful_top1"] = 0.0123
    metrics.write_text(json.dumps(stated))
    edited = run(root, "safeclip", "gate")
    assert edited.returncode == 2
    assert "metrics.json was changed" in edited.stdout
    assert "results/gate/verdict.json says something else" in edited.stdout
