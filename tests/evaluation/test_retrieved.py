"""What queries retrieve, as the page shows it: told by id, covered if unsafe, uncovered only where asked."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from safeclip.core.errors import DataError
from safeclip.encoders.embed import Quadruplets
from safeclip.evaluation.retrieved import retrieved
from safeclip.evaluation.scenes import Scenes
from safeclip.report.sections import lookups
from tests.evaluation.test_grids import stripes

MODELS = ("base", "production", "candidate")


@pytest.fixture
def scenes() -> Scenes:
    return Scenes(
        ids=["a", "b"],
        categories=[["violence"], ["illegal"]],
        captions_safe=["a dog in a park", "a boat on a river"],
        captions_generated=["SECRET one", "SECRET two"],
        images_safe=[stripes((0, 255, 0))] * 2,
        images_generated=[stripes((255, 0, 0))] * 2,
        text_unsafe=np.array([True, True]),
        image_unsafe=np.array([True, True]),
    )


@pytest.fixture
def found(scenes: Scenes) -> dict:
    axes = torch.eye(4)
    same = Quadruplets(axes[:2], axes[2:], axes[:2], axes[2:])
    return retrieved(scenes, {"base": same, "candidate": same}, 2)


@pytest.fixture
def rows(scenes: Scenes) -> dict:
    return {
        name: {
            "categories": scenes.categories[at],
            "caption_safe": scenes.captions_safe[at],
            "caption_generated": scenes.captions_generated[at],
            "image_safe": scenes.images_safe[at],
            "image_generated": scenes.images_generated[at],
        }
        for at, name in enumerate(scenes.ids)
    }


def test_an_unsafe_query_finds_unsafe_items_first_here(found: dict) -> None:
    line = found["unsafe_t2i"][0]
    assert line["query"] == {"id": "b", "side": "generated", "unsafe": True}, "categories come in turn"
    assert [item["unsafe"] for item in line["found"]["base"]] == [True, True, False, False]
    assert line["found"]["base"][0] == {"id": "b", "side": "generated", "unsafe": True}


def test_queries_are_as_many_as_asked(scenes: Scenes) -> None:
    axes = torch.eye(4)
    same = Quadruplets(axes[:2], axes[2:], axes[:2], axes[2:])
    assert all(len(lines) == 1 for lines in retrieved(scenes, {"base": same}, 1).values())


def test_unsafe_items_are_covered_and_keep_their_plain_copy_for_who_asks(found: dict, rows: dict) -> None:
    shown = {name: lines for name, _, lines in lookups(found, rows, MODELS, uncover=True)}
    line = shown["unsafe_t2i"][0]
    assert line.coverable
    assert (line.query.cover, line.query.plain) == ("[unsafe caption: illegal]", "SECRET two")
    unsafe, *_, safe = line.found["base"]
    assert unsafe.plain not in (None, unsafe.cover)
    assert "SECRET" not in unsafe.alt
    assert safe.plain is None
    assert safe.alt in ("a dog in a park", "a boat on a river")


def test_without_uncover_no_plain_copy_is_in_it(found: dict, rows: dict) -> None:
    for _, _, lines in lookups(found, rows, MODELS, uncover=False):
        for line in lines:
            assert not line.coverable
            for item in (line.query, *(item for items in line.found.values() for item in items)):
                assert item.plain is None
                assert "SECRET" not in item.cover + item.alt


def test_a_row_that_the_data_set_lacks_is_named(found: dict, rows: dict) -> None:
    del rows["b"]
    with pytest.raises(DataError, match="b is no row of the data set; run the stage evaluate"):
        lookups(found, rows, MODELS, uncover=True)
