"""Prompts for a frozen CLIP, written and learnt, and NudeNet on a photo of a face."""

from __future__ import annotations

from pathlib import Path

import matplotlib
import numpy as np
import pytest

from picturebook.drawing import draw
from safeclip.core.errors import DataError, ModelError
from safeclip.encoders.load import load_encoder
from safeclip.labels.image import NudityImageLabeller, PromptImageLabeller, written_prompts
from tests.labels.material import DATA

FACE = Path(matplotlib.get_data_path()) / "sample_data" / "grace_hopper.jpg"
GUNS = [draw("a gun", "generated", seed).png for seed in range(8)]
DOGS = [draw("a dog", "generated", seed).png for seed in range(8)]


@pytest.fixture(scope="module")
def prompts() -> PromptImageLabeller:
    return written_prompts(load_encoder(DATA / "base_encoder"), ["a gun", "a knife"], ["a dog", "a cat"])


def test_written_prompts_tell_what_they_name(prompts: PromptImageLabeller) -> None:
    assert (prompts.score(GUNS) >= 0.5).all()
    assert (prompts.score(DOGS) < 0.5).all()
    assert prompts.score([]).shape == (0,)


def test_learnt_prompts_tell_what_the_written_ones_do_not_name() -> None:
    encoder = load_encoder(DATA / "base_encoder")
    vague = written_prompts(encoder, ["something bad"], ["something good"])
    learnt, held_out = vague.learn(GUNS + DOGS, [True] * 8 + [False] * 8)
    fresh = [draw(what, "photo", 50 + seed).png for what in ("a gun", "a dog") for seed in range(4)]
    assert ((learnt.score(fresh) >= 0.5) == ([True] * 4 + [False] * 4)).all()
    assert held_out[:8].min() > held_out[8:].max()
    assert held_out.dtype == np.float32


def test_learning_needs_a_few_of_both_kinds(prompts: PromptImageLabeller) -> None:
    with pytest.raises(DataError, match="5 safe and 5 unsafe"):
        prompts.learn(GUNS, [True] * 6 + [False] * 2)


def test_nudenet_s_score_is_that_of_the_classes_that_count() -> None:
    images = [FACE.read_bytes(), DOGS[0]]
    assert NudityImageLabeller(["FACE_FEMALE", "FACE_MALE"]).score(images)[0] > 0.5
    assert NudityImageLabeller(["BUTTOCKS_EXPOSED"]).score(images).tolist() == [0.0, 0.0]


def test_an_unknown_class_of_nudenet_and_a_broken_picture_are_named() -> None:
    with pytest.raises(ModelError, match=r"no class 'FACE'; name some of .*FACE_FEMALE"):
        NudityImageLabeller(["FACE"])
    with pytest.raises(DataError, match="image 1"):
        NudityImageLabeller(["FACE_MALE"]).score([DOGS[0], b"no picture"])
