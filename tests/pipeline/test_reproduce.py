"""A fresh clone is compared with dvc.lock: a toy chain on real git and DVC, and the real chain."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

from safeclip.pipeline.checkout import copy_checkout, override_params
from safeclip.pipeline.graph import load_graph
from safeclip.pipeline.reproduce import main
from tests.support.toy import PROJECT, make_toy, run

AUTHOR = ("-c", "user.name=test", "-c", "user.email=test@example.org")


@pytest.fixture(scope="module")
def committed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A toy chain that has run, its data on the remote that travels with it, its lock committed."""
    root = make_toy(tmp_path_factory.mktemp("reproduce") / "toy")
    override_params(root, {"compute": {"workers": 2}})
    (root / ".gitignore").write_text("work/\nresults/\n*.pid\n*.runs\n")
    for command in (
        ["dvc", "remote", "add", "-q", "-d", "bundled", "dvcstore"],
        ["dvc", "push", "-q", "data.dvc"],
        ["dvc", "repro", "-q"],
        ["git", "add", "-A"],
        ["git", *AUTHOR, "commit", "-q", "-m", "all"],
    ):
        done = run(root, *command)
        assert done.returncode == 0, done.stderr
    return root


def test_every_stage_is_compared_and_a_differing_output_is_named(
    committed: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    lock = committed / "dvc.lock"
    found = lock.read_text()
    digest = found[found.index("path: results/report") :].partition("md5: ")[2].split()[0]
    lock.write_text(found.replace(digest, "0" * 32 + ".dir"))  # as if another machine had made it
    run(committed, "git", *AUTHOR, "commit", "-q", "-a", "-m", "lock")
    monkeypatch.chdir(committed)
    monkeypatch.setattr(sys, "argv", ["reproduce"])
    assert main() == 1
    lines = dict(line.split(maxsplit=1) for line in capsys.readouterr().out.splitlines())
    assert lines == dict.fromkeys(("left", "right", "gate", "package"), "the same bytes") | {
        "report": "DIFFERS: results/report"
    }


def test_without_a_lock_it_says_what_to_do(
    committed: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(committed)
    monkeypatch.setattr(sys, "argv", ["reproduce"])
    run(committed, "git", "rm", "-q", "dvc.lock")
    run(committed, "git", *AUTHOR, "commit", "-q", "-m", "no lock")
    assert main() == 1
    assert capsys.readouterr().err.endswith("no such file; run the chain and commit dvc.lock first\n")


@pytest.mark.servers
@pytest.mark.timeout(3600)
def test_two_clones_of_the_real_chain_in_different_surroundings_agree(tmp_path: Path) -> None:
    root = copy_checkout(PROJECT, tmp_path / "project")
    for command in (["git", "add", "-A"], ["git", *AUTHOR, "commit", "-q", "-m", "all"]):
        assert run(root, *command).returncode == 0
    done = run(root, sys.executable, "-m", "safeclip.pipeline.reproduce", "--quick", timeout=3600)
    assert done.returncode == 0, done.stdout + done.stderr
    assert len(done.stdout.splitlines()) == len(load_graph(root)) - 2  # all but data.dvc and package
