"""A profile is written into params.yaml whole or not at all, and can be taken back."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from safeclip.core.errors import SettingsError
from safeclip.pipeline.reproduce import apply_profile
from safeclip.settings import load_settings
from tests.support.toy import PROJECT


@pytest.fixture
def root(tmp_path: Path) -> Path:
    shutil.copy(PROJECT / "params.yaml", tmp_path)
    shutil.copytree(PROJECT / "profiles", tmp_path / "profiles")
    return tmp_path


def test_full_turns_preference_tuning_on_and_default_takes_it_back(root: Path) -> None:
    before = load_settings(root / "params.yaml")
    assert "tune_rewriter.preference" in apply_profile(root, "full")
    assert load_settings(root / "params.yaml").tune_rewriter.preference is not None
    assert "# Every setting of the chain" in (root / "params.yaml").read_text()
    apply_profile(root, "default")
    assert load_settings(root / "params.yaml") == before


def test_every_profile_fits_and_default_changes_nothing(root: Path) -> None:
    assert apply_profile(root, "default") == []
    for profile in sorted((root / "profiles").glob("*.yaml")):
        apply_profile(root, profile.stem)


def test_an_unknown_profile_names_the_known_ones(root: Path) -> None:
    with pytest.raises(SettingsError, match="fulll: no such profile; known are default, full"):
        apply_profile(root, "fulll")


def test_a_profile_that_does_not_fit_changes_nothing(root: Path) -> None:
    before = (root / "params.yaml").read_bytes()
    (root / "profiles" / "wrong.yaml").write_text("tune_rewriter: {epochz: 3}\n")
    with pytest.raises(SettingsError, match=r"unknown key `tune_rewriter\.epochz`"):
        apply_profile(root, "wrong")
    assert (root / "params.yaml").read_bytes() == before
    assert sorted(path.name for path in root.iterdir()) == ["params.yaml", "profiles"]
