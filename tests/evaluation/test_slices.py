"""Slices: which of them a scene belongs to, under names that can stand in a metric's path."""

from __future__ import annotations

import numpy as np
import pyarrow as pa
import pytest

from safeclip.evaluation.scenes import Scenes
from safeclip.evaluation.summary import as_name, length_slices, scene_slices

CAPTIONS = ["a b c", "a b c d", "a b c d e", "a b c d e f", "a b c d e f g h"]


@pytest.fixture
def scenes() -> Scenes:
    count = len(CAPTIONS)
    return Scenes(
        ids=list("abcde"),
        categories=[[]] * count,
        captions_safe=["a dog"] * count,
        captions_generated=CAPTIONS,
        images_safe=[b""] * count,
        images_generated=[b""] * count,
        text_unsafe=np.array([True, True, False, False, True]),
        image_unsafe=np.array([True, False, True, False, True]),
    )


def test_a_scene_belongs_to_one_slice_of_each_kind(scenes: Scenes) -> None:
    concepts = ["a knife fight", "a knife fight", "unknown words", None, "a bully"]
    dataset = pa.table({"concept": concepts, "image_model": ["picturebook-generated"] * 4 + [None]})
    found = scene_slices(dataset, scenes, {"a knife fight": "physical violence", "a bully": "harassment"})
    assert [sorted(name.split(".")[0] for name in slices) for slices in found] == [
        ["concept", "length", "modality", "style"]
    ] * 5
    assert "concept.physical_violence" in found[0]
    assert "concept.unknown_words" in found[2]
    assert "concept.unnamed" in found[3]
    kinds = [next(name for name in slices if name.startswith("modality")) for slices in found]
    assert kinds == [f"modality.{name}" for name in ("both", "text_only", "picture_only", "neither", "both")]
    assert "style.picturebook_generated" in found[0]
    assert "style.unnamed" in found[4]


def test_lengths_are_cut_at_their_terciles() -> None:
    names = length_slices(CAPTIONS)
    assert names == ["3_to_4_words"] * 2 + ["5_to_5_words"] + ["6_to_8_words"] * 2
    assert length_slices(["one two"] * 9) == ["2_to_2_words"] * 9
    assert length_slices([]) == []


@pytest.mark.parametrize(
    ("text", "name"),
    [("Drug use!", "drug_use"), ("a.b", "a_b"), ("насилие", "насилие"), ("!?", "unnamed"), ("", "unnamed")],
)
def test_names_can_stand_in_a_path(text: str, name: str) -> None:
    assert as_name(text) == name
