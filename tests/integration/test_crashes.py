"""Kill -9 at random moments: the rerun recovers by itself to the bytes of an undisturbed run."""

from __future__ import annotations

import importlib.util
import sys
from pathlib import Path
from types import ModuleType

import pytest

from tests.support.chain import TinyChain, copy_chain
from tests.support.toy import PROJECT


@pytest.fixture(scope="module")
def crashes() -> ModuleType:
    spec = importlib.util.spec_from_file_location("crashes", PROJECT / "benchmarks" / "crashes.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules["crashes"] = module
    spec.loader.exec_module(module)
    return module


def test_a_cheap_stage_recovers_whoever_is_killed(
    tiny_chain: TinyChain, crashes: ModuleType, tmp_path: Path
) -> None:
    root = copy_chain(tiny_chain, tmp_path / "project")
    trials = crashes.try_stage(root, "render_images", range(3))
    assert {trial.victim for trial in trials} == {"stage", "dvc", "starter"}
    assert [trial.fault for trial in trials] == ["", "", ""]


@pytest.mark.servers
@pytest.mark.timeout(7200)
@pytest.mark.parametrize(
    "stage", ["tune_rewriter", "rewrite_captions", "render_images", "finetune", "evaluate", "package"]
)
def test_ten_kills_of_every_long_stage(
    stage: str, tiny_chain: TinyChain, crashes: ModuleType, tmp_path: Path
) -> None:
    root = copy_chain(tiny_chain, tmp_path / "project")
    assert [trial.fault for trial in crashes.try_stage(root, stage, range(10))] == [""] * 10
