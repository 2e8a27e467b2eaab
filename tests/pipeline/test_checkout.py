"""A profile is written into params.yaml whole or not at all."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from safeclip.core.errors import SettingsError
from safeclip.pipeline.checkout import apply_profile
from safeclip.settings import load_settings
from tests.support.toy import PROJECT


@pytest.fixture
def root(tmp_path: Path) -> Path:
    shutil.copy(PROJECT / "params.yaml", tmp_path)
    shutil.copytree(PROJECT / "params", tmp_path / "params")
    return tmp_path


def test_full_turns_preference_tuning_on_and_keeps_the_comments(root: Path) -> None:
    assert "tune_rewriter.preference" in apply_profile(root, "full")
    assert load_settings(root / "params.yaml").tune_rewriter.preference is not None
    assert "# Every setting of the chain" in (root / "params.yaml").read_text()


@pytest.mark.parametrize("name", ["full", "tiny"])
def test_a_profile_fits_and_changes_nothing_the_second_time(root: Path, name: str) -> None:
    assert apply_profile(root, name)
    assert apply_profile(root, name) == []


def test_an_unknown_profile_names_the_known_ones(root: Path) -> None:
    with pytest.raises(SettingsError, match="fulll: no such profile; known are full, tiny"):
        apply_profile(root, "fulll")


def test_a_profile_that_does_not_fit_changes_nothing(root: Path) -> None:
    before = (root / "params.yaml").read_bytes()
    (root / "params" / "wrong.yaml").write_text("tune_rewriter: {epochz: 3}\n")
    with pytest.raises(SettingsError, match=r"unknown key `tune_rewriter\.epochz`"):
        apply_profile(root, "wrong")
    assert (root / "params.yaml").read_bytes() == before
    assert sorted(path.name for path in root.iterdir()) == ["params", "params.yaml"]
