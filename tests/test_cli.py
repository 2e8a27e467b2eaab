"""The `safeclip` command: quick help, one-line errors."""

from __future__ import annotations

import json
import subprocess
import sys
import time
from pathlib import Path

import pytest

from tests.support.toy import make_toy, run

COMMANDS = ("run", "stage", "status", "report", "export", "evaluate", "gate", "review", "registry", "serve")


def safeclip(folder: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    return run(folder, sys.executable, "-m", "safeclip.cli", *arguments)


@pytest.fixture(scope="module")
def project(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_toy(tmp_path_factory.mktemp("cli") / "toy")


def test_help_is_quick(tmp_path: Path) -> None:
    seconds = []
    for _ in range(5):
        began = time.perf_counter()
        assert safeclip(tmp_path, "--help").returncode == 0
        seconds.append(time.perf_counter() - began)
    assert min(seconds) < 0.5


def test_help_imports_nothing_heavy(tmp_path: Path) -> None:
    heavy = "('torch', 'prefect', 'dvc', 'bentoml')"
    code = f"import sys, safeclip.cli; print([name for name in {heavy} if name in sys.modules])"
    assert run(tmp_path, sys.executable, "-c", code).stdout.strip() == "[]"


@pytest.mark.parametrize("command", COMMANDS)
def test_every_command_has_help_with_an_example(tmp_path: Path, command: str) -> None:
    shown = safeclip(tmp_path, command, "--help").stdout
    assert f"example: safeclip {command}" in shown


def test_outside_a_project_it_says_so(tmp_path: Path) -> None:
    result = safeclip(tmp_path, "status")
    assert (result.returncode, result.stdout) == (1, "")
    assert result.stderr.startswith("error: ")
    assert result.stderr.endswith("no dvc.yaml here or above; run from the project's folder\n")


def test_an_unknown_stage_suggests_the_nearest(project: Path) -> None:
    result = safeclip(project, "stage", "rigth")
    assert (result.returncode, result.stderr) == (1, "error: no stage `rigth`; did you mean `right`?\n")


def test_settings_are_checked_before_any_work(project: Path) -> None:
    good = (project / "params.yaml").read_text()
    try:
        (project / "params.yaml").write_text("finetune: {steps: none}\n")
        for command in (["run"], ["stage", "left"]):
            result = safeclip(project, *command)
            assert result.returncode == 1
            assert len(result.stderr.splitlines()) == 1
            assert "`finetune.steps` = 'none'" in result.stderr
        assert not (project / "results").exists()
    finally:
        (project / "params.yaml").write_text(good)


def test_a_broken_dvc_yaml_is_one_line(project: Path) -> None:
    good = (project / "dvc.yaml").read_text()
    try:
        (project / "dvc.yaml").write_text("stages: [oops\n")
        result = safeclip(project, "status")
        assert result.returncode == 1
        assert len(result.stderr.splitlines()) == 1
        assert "dvc.yaml" in result.stderr
    finally:
        (project / "dvc.yaml").write_text(good)


def test_a_stage_runs_alone_once_and_status_says_why_the_rest_is_stale(project: Path) -> None:
    assert safeclip(project, "stage", "left").stdout.splitlines()[-1] == "left: done"
    assert safeclip(project, "stage", "left").stdout == "left: up to date\n"
    (project / "toy.json").write_text(json.dumps({"left": {"seconds": 0.01}, "right": {}, "gate": {}}))
    lines = dict(line.split(maxsplit=1) for line in safeclip(project, "status").stdout.splitlines())
    assert lines["data.dvc"] == "up to date"
    assert lines["left"] == "stale: left modified"
    assert lines["right"] == "stale: never run"
    assert lines["gate"] == "stale: never run, left is stale, right is stale"


def test_report_says_how_to_make_one(project: Path) -> None:
    result = safeclip(project, "report")
    assert (result.returncode, result.stderr) == (
        1,
        "error: there is no report yet; `safeclip run` makes one\n",
    )


def test_serve_says_what_is_missing(project: Path) -> None:
    result = safeclip(project, "serve")
    assert result.returncode == 1
    assert "results/package/safeclip-embedder.tar" in result.stderr
    assert len(result.stderr.splitlines()) == 1
