"""Every file of the registry, damaged in every way we can think of: one line, never a traceback, no harm."""

from __future__ import annotations

import contextlib
import json
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from safeclip.core.errors import SafeclipError
from safeclip.core.production import read_production
from safeclip.release.approval import ReleaseRegistry, ask, sign
from safeclip.release.promotion import sync_from_tags
from safeclip.release.releases import Release, production, pull, read_candidate
from safeclip.release.reviews import all_reviews, check_open
from tests.release.project import Project, make_project

FOLDERS = ("reviews", "candidates", "bentos", "adapters", "index.json")


@pytest.fixture(scope="module")
def released(tmp_path_factory: pytest.TempPathFactory) -> Project:
    project = make_project(tmp_path_factory.mktemp("damage"))
    sign(project.registry, ask(project.registry), project.key("alice"), "good numbers")
    return project


@pytest.fixture(scope="module")
def release(released: Project) -> Release:
    """Read once: to check its signature starts several processes."""
    found = production(released.root)
    assert found is not None
    return found


def file_of(project: Project, folder: str) -> Path:
    """The one file of that folder of the registry."""
    place = project.root / "registry" / folder
    return place if place.is_file() else next(iter(place.iterdir()))


def faults(project: Project, release: Release, scratch: Path) -> list[str]:
    """What each reader of the registry says; anything but a `SafeclipError` goes through."""
    registry: ReleaseRegistry = project.registry
    said = []
    for read in (
        lambda: [check_open(review) for review in all_reviews(registry.store)],
        lambda: read_candidate(registry.store, release),
        lambda: pull(registry.store, release, scratch),
        lambda: sync_from_tags(project.root, registry.store),
    ):
        try:
            read()
        except SafeclipError as error:
            said.append(str(error))
    shutil.rmtree(scratch, ignore_errors=True)
    return said


@contextlib.contextmanager
def replaced(path: Path, content: bytes) -> Iterator[None]:
    whole = path.read_bytes()
    path.write_bytes(content)
    try:
        yield
    finally:
        path.write_bytes(whole)


def expected(folder: str) -> int:
    """How many readers complain: the index is written from the tags, so nobody trusts it."""
    return 0 if folder == "index.json" else 1


def test_undamaged_all_is_well_but_that_it_was_promoted_already(
    released: Project, release: Release, tmp_path: Path
) -> None:
    (line,) = faults(released, release, tmp_path / "out")
    assert "was promoted by alice@example.org" in line


@pytest.mark.parametrize("folder", FOLDERS)
@pytest.mark.parametrize(
    "content",
    [b"", b"{", b"\xff\xfe\x00", b"null", b"[]", b'"x"', b"3", b"NaN", b"{}", b"[" * 100_000, b'{"a": 1}'],
    ids=lambda content: content[:6].decode("latin-1") or "empty",
)
def test_a_damaged_file_is_one_line(
    released: Project, release: Release, folder: str, content: bytes, tmp_path: Path
) -> None:
    adapter = (released.root / "production/adapter.safetensors").read_bytes()
    with replaced(file_of(released, folder), content):
        said = [line for line in faults(released, release, tmp_path / "out") if "was promoted by" not in line]
    assert len(said) == expected(folder)
    assert all("\n" not in line and len(line) < 400 for line in said)
    assert (released.root / "production/adapter.safetensors").read_bytes() == adapter
    assert read_production(released.root / "release/production.json").version == "v0.1.0"


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=8), inner, max_size=3),
    max_leaves=6,
)


def fault_of(read: Callable[[], object]) -> str:
    """The line in which `read` refuses what it reads; empty if it reads it."""
    try:
        read()
    except SafeclipError as error:
        return str(error)
    return ""


@pytest.mark.parametrize("folder", ["reviews", "candidates"])
@settings(
    max_examples=20,
    deadline=None,
    derandomize=True,
    suppress_health_check=[HealthCheck.function_scoped_fixture],
)
@given(data=st.data())
def test_any_field_may_hold_anything(
    released: Project, release: Release, folder: str, tmp_path: Path, data: st.DataObject
) -> None:
    path = file_of(released, folder)
    record = json.loads(path.read_bytes())
    field = data.draw(st.sampled_from(sorted(record)))
    record[field] = data.draw(JSON)
    registry = released.registry
    with replaced(path, json.dumps(record).encode()):
        for read in (lambda: all_reviews(registry.store), lambda: read_candidate(registry.store, release)):
            assert "\n" not in fault_of(read)  # any other error than ours fails the test


def test_a_request_without_a_time_zone_is_refused(
    released: Project, release: Release, tmp_path: Path
) -> None:
    path = file_of(released, "reviews")
    record = json.loads(path.read_bytes()) | {"expires": "2026-01-01T00:00:00", "state": "waiting"}
    with replaced(path, json.dumps(record).encode()):
        (line,) = faults(released, release, tmp_path / "out")
    assert "expires: Input should have timezone info" in line
