"""Purging deletes unsafe outputs wherever they lie, and nothing that a registered version stands on."""

from __future__ import annotations

import json
import os
import time
from contextlib import chdir
from pathlib import Path

import pytest
from dvc.repo import Repo

from safeclip.core.errors import PipelineError
from safeclip.pipeline.purge import outputs_of, purge
from tests.support.toy import run

STAGES = """
stages:
  rewrite:
    cmd: mkdir -p results/rewrite && cp words.txt results/rewrite/unsafe.txt && cp shared.txt results/rewrite
    deps: [words.txt, shared.txt]
    outs:
      - results/rewrite:
          remote: restricted
  gate:
    cmd: mkdir -p results/gate && wc -c < results/rewrite/unsafe.txt > results/gate/size.txt
    deps: [results/rewrite]
    outs: [results/gate]
"""
CONFIG = """
[core]
    remote = default
['remote "default"']
    url = ../.remote
['remote "restricted"']
    url = ../.remote-restricted
"""


def holds(folder: Path, word: str) -> bool:
    """Whether any file below the folder holds the word."""
    return any(word in path.read_text(errors="ignore") for path in folder.rglob("*") if path.is_file())


def repro(folder: Path) -> None:
    with chdir(folder), Repo(".") as repo:
        repo.reproduce()


def version(folder: Path, word: str, *, commit: bool = True) -> None:
    (folder / "words.txt").write_text(f"{word} of this version\n")
    repro(folder)
    with chdir(folder), Repo(".") as repo:
        repo.push()
    if not commit:
        return
    (folder / "words.txt.note").write_text(word)
    for command in (["git", "add", "-A"], ["git", "commit", "-qm", word]):
        done = run(folder, *command)
        assert done.returncode == 0, done.stderr


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """v0.1.0 is registered (alpha), beta is committed, gamma was run and never committed, delta lies here."""
    folder = tmp_path_factory.mktemp("purge") / "project"
    folder.mkdir()
    (folder / "dvc.yaml").write_text(STAGES)
    (folder / "shared.txt").write_text("shared by all versions\n")
    (folder / "release").mkdir()
    (folder / "release/production.json").write_text('{"assigned": false, "version": null, "digests": {}}')
    (folder / ".gitignore").write_text("/results\n/work\n/.remote*\nwords.txt\n")
    for command in (
        ["git", "init", "-q"],
        ["git", "config", "user.name", "a"],
        ["git", "config", "user.email", "a@b.c"],
    ):
        assert run(folder, *command).returncode == 0
    Repo.init(str(folder)).close()
    (folder / ".dvc" / "config").write_text(CONFIG)
    version(folder, "alpha")
    assert run(folder, "git", "tag", "-a", "safeclip@v0.1.0", "-m", "first").returncode == 0
    version(folder, "beta")
    version(folder, "gamma", commit=False)
    version(folder, "delta", commit=False)
    (folder / "work" / "rewrite").mkdir(parents=True)
    (folder / "work" / "rewrite" / "batch.txt").write_text("delta in scratch")
    return folder


@pytest.fixture
def project(finished: Path, tmp_path: Path) -> Path:
    run(tmp_path, "cp", "-a", str(finished), str(tmp_path / "project"))
    return tmp_path / "project"


PLACES = (".dvc/cache", ".remote-restricted")


def test_nothing_unsafe_is_left_but_what_a_registered_version_stands_on(project: Path) -> None:
    done = purge(project)
    for place in PLACES:
        assert holds(project / place, "alpha of this version")
        assert holds(project / place, "shared by all versions")  # v0.1.0 has the same file
        for word in ("beta", "gamma", "delta"):
            assert not holds(project / place, f"{word} of this version")
    assert not (project / "results" / "rewrite").exists()
    assert not (project / "work" / "rewrite").exists()
    assert (project / "results" / "gate" / "size.txt").exists()
    assert done.versions == {"results/rewrite": 3}
    assert done.summary_lines(dry_run=False)[-1] == "kept: what safeclip@v0.1.0 stands on"


def test_the_chain_makes_purged_results_again(project: Path) -> None:
    before = (project / "dvc.lock").read_bytes()
    purge(project)
    repro(project)
    assert (project / "results/rewrite/unsafe.txt").read_text() == "delta of this version\n"
    assert (project / "dvc.lock").read_bytes() == before


def test_a_dry_run_deletes_nothing(project: Path) -> None:
    def state() -> dict[str, int]:
        return {str(path): path.stat().st_size for path in project.rglob("*") if ".dvc/tmp" not in str(path)}

    before = state()
    lines = purge(project, dry_run=True).summary_lines(dry_run=True)
    assert state() == before
    assert lines[0] == "would delete: results/rewrite, 3 versions"
    assert "of this version" not in "\n".join(lines)


def test_retention_deletes_what_is_older(project: Path) -> None:
    old = {output.oid for output in outputs_of(run(project, "git", "show", "HEAD:dvc.lock").stdout)}
    long_ago = time.time() - 40 * 86_400
    for place in PLACES:
        for oid in old:
            for path in project.joinpath(place).rglob(oid[2:]):
                os.utime(path, (long_ago, long_ago))
    purge(project, older_than=30)
    for place in PLACES:
        assert not holds(project / place, "beta of this version")
        assert holds(project / place, "delta of this version")
    assert (project / "results" / "rewrite").exists()
    assert (project / "work" / "rewrite").exists()


def test_production_without_its_tag_stops_before_anything_is_deleted(project: Path) -> None:
    production = {"assigned": True, "version": "v9.0.0", "adapter": "a", "digests": {"adapter": "00"}}
    (project / "release/production.json").write_text(json.dumps(production))
    with pytest.raises(PipelineError, match=r"no tag safeclip@v9\.0\.0; fetch the tags"):
        purge(project)
    assert holds(project / ".dvc/cache", "delta of this version")


def test_a_dvc_yaml_without_restricted_outputs_is_refused(project: Path) -> None:
    text = (project / "dvc.yaml").read_text().replace(":\n          remote: restricted", "")
    (project / "dvc.yaml").write_text(text)
    with pytest.raises(PipelineError, match="no output has `remote: restricted`"):
        purge(project)
