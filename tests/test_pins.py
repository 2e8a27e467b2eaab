"""The pins that no resolver and no `pip check` would find: with other versions Prefect breaks quietly."""

from __future__ import annotations

import tomllib
from importlib.metadata import version
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.version import Version

ROOT = Path(__file__).resolve().parents[1]

BOUNDS = {
    "sqlalchemy": "<2.1",  # with 2.1 Prefect's scheduler never creates a scheduled run
    "whenever": ">=0.11",  # with 0.10.5 neither does that of 3.9.1 on Python below 3.13
    "prefect": "==3.9.1",  # the flow's temporary server and states are tested with this one
}


def locked() -> dict[str, str]:
    """Distribution -> version in requirements.lock."""
    lines = (ROOT / "requirements.lock").read_text().splitlines()
    pins = [
        line.split(";")[0].strip() for line in lines if "==" in line and not line.lstrip().startswith("#")
    ]
    return {name.lower(): pinned for name, _, pinned in (pin.partition("==") for pin in pins)}


@pytest.mark.parametrize("name", BOUNDS)
def test_what_is_locked_and_installed_keeps_the_bound(name: str) -> None:
    bound = Requirement(f"{name}{BOUNDS[name]}").specifier
    assert Version(locked()[name]) in bound
    assert Version(version(name)) in bound


@pytest.mark.parametrize("name", BOUNDS)
def test_pyproject_states_the_bound_so_that_a_new_lock_keeps_it(name: str) -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    stated = {r.name.lower(): r.specifier for r in map(Requirement, project["dependencies"])}
    assert stated[name] == Requirement(f"{name}{BOUNDS[name]}").specifier


def test_no_file_names_a_package_index() -> None:
    for name in ("requirements.lock", "pyproject.toml", "Makefile"):
        assert "://" not in (ROOT / name).read_text(), name  # nor any other address
