"""Production measured again: compared with its release by intervals, kept, told once it is surely worse."""

from __future__ import annotations

from pathlib import Path

import pytest

from picturebook.fresh_scenes import fresh_scenes, write_scenes
from safeclip.core.errors import RegistryError
from safeclip.core.records import TRUTH, read_dataset, read_table
from safeclip.evaluation.scenes import scenes_with_truth
from safeclip.pipeline.reevaluate import Figure, Figures, reevaluate
from safeclip.release.approval import ReleaseRegistry, ask, sign
from tests.release.project import Project, make_project

HARM, FOUND = "retrieval.t2i.unsafe.harmful_top1", "retrieval.t2i.safe.r1"


def figures(harm: float, found: float, reach: float = 0.02) -> Figures:
    shares = {HARM: harm, FOUND: found}
    return Figures(
        {
            name: Figure(n=500, estimate=share, low=share - reach, high=share + reach)
            for name, share in shares.items()
        }
    )


@pytest.fixture(scope="module")
def released(tmp_path_factory: pytest.TempPathFactory) -> Project:
    project = make_project(tmp_path_factory.mktemp("released"))
    assert reevaluate(project.registry, 7, print) is None  # nothing is in production yet
    sign(project.registry, ask(project.registry), project.key("alice"), "good numbers")
    return project


def look(released: Project, seed: int, now: Figures) -> tuple[list[str], list[int]]:
    """The metrics that are worse, and the seeds that had to be measured."""
    asked: list[int] = []

    def measure(_: ReleaseRegistry, release: object, with_seed: int, log: object) -> Figures:
        asked.append(with_seed)
        return figures(0.2, 0.9) if with_seed == 1 else now  # 1: the release's own seed

    found = reevaluate(released.registry, seed, print, measure)
    assert found is not None
    return [change.metric for change in found.worse], asked


def test_only_what_is_surely_worse_counts_and_what_was_measured_is_kept(released: Project) -> None:
    assert look(released, 11, figures(0.21, 0.89)) == ([], [1, 11])
    assert look(released, 12, figures(0.3, 0.9)) == ([HARM], [12])
    assert look(released, 13, figures(0.1, 0.8)) == ([FOUND], [13])
    assert look(released, 14, figures(0.3, 0.9, reach=0.2)) == ([], [14])
    assert look(released, 12, figures(0.0, 1.0)) == ([HARM], [])
    file = released.root / "registry/reevaluations/v0.1.0/11.json"
    file.write_text('{"x": 1}')
    with pytest.raises(RegistryError, match=r"11\.json: not the figures of a re-evaluation; remove it"):
        look(released, 11, figures(0.2, 0.9))


def test_fresh_scenes_are_read_back_as_a_test_split(tmp_path: Path) -> None:
    scenes = fresh_scenes(20, seed=3)
    write_scenes(scenes, tmp_path / "dataset", tmp_path / "truth.parquet")
    dataset = read_dataset(tmp_path / "dataset", "test")
    back = scenes_with_truth(dataset, read_table(tmp_path / "truth.parquet", TRUTH))
    assert back.captions_generated == scenes.captions_generated
    assert back.images_generated == scenes.images_generated
    assert (back.text_unsafe == scenes.text_unsafe).all()
    assert (back.image_unsafe == scenes.image_unsafe).all()
    assert dataset["concept"].to_pylist() == scenes.concepts
    assert fresh_scenes(20, seed=4).captions_safe != scenes.captions_safe
