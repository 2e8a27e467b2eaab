"""Prompts for a frozen CLIP, written and learnt, and NudeNet on a photo of a face."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path

import matplotlib
import numpy as np
import pytest

from picturebook.drawing import draw
from safeclip.core.artifacts import DataFolder
from safeclip.core.errors import DataError, ModelError, SettingsError
from safeclip.encoders.load import load_encoder
from safeclip.labels.calibration import Calibration
from safeclip.labels.image import NudityImageLabeller, PromptImageLabeller, make_image_labeller
from safeclip.settings import CustomLabeller
from tests.labels.material import DATA

FACE = Path(matplotlib.get_data_path()) / "sample_data" / "grace_hopper.jpg"
GUNS = [draw("a gun", "generated", seed).png for seed in range(8)]
DOGS = [draw("a dog", "generated", seed).png for seed in range(8)]


@pytest.fixture(scope="module")
def prompts() -> PromptImageLabeller:
    return PromptImageLabeller.from_texts(
        load_encoder(DATA / "base_encoder"), unsafe=["a gun", "a knife"], safe=["a dog", "a cat"]
    )


def test_written_prompts_tell_what_they_name(prompts: PromptImageLabeller) -> None:
    assert (prompts.score(GUNS) >= 0.5).all()
    assert (prompts.score(DOGS) < 0.5).all()
    assert prompts.score([]).shape == (0,)


def test_learnt_prompts_tell_what_the_written_ones_do_not_name() -> None:
    encoder = load_encoder(DATA / "base_encoder")
    vague = PromptImageLabeller.from_texts(encoder, unsafe=["something bad"], safe=["something good"])
    learnt, held_out = vague.learn(GUNS + DOGS, [True] * 8 + [False] * 8)
    fresh = [draw(what, "photo", 50 + seed).png for what in ("a gun", "a dog") for seed in range(4)]
    assert ((learnt.score(fresh) >= 0.5) == ([True] * 4 + [False] * 4)).all()
    assert held_out[:8].min() > held_out[8:].max()
    assert held_out.dtype == np.float32


def test_learning_needs_a_few_of_both_kinds(prompts: PromptImageLabeller) -> None:
    with pytest.raises(DataError, match="5 safe and 5 unsafe"):
        prompts.learn(GUNS, [True] * 6 + [False] * 2)


def test_nudenet_s_score_is_that_of_the_classes_that_count() -> None:
    pytest.importorskip("nudenet", reason="the extra `nudity` is not installed")
    images = [FACE.read_bytes(), DOGS[0]]
    assert NudityImageLabeller(["FACE_FEMALE", "FACE_MALE"]).score(images)[0] > 0.5
    assert NudityImageLabeller(["BUTTOCKS_EXPOSED"]).score(images).tolist() == [0.0, 0.0]


def test_an_unknown_class_of_nudenet_and_a_broken_image_are_named() -> None:
    pytest.importorskip("nudenet", reason="the extra `nudity` is not installed")
    with pytest.raises(ModelError, match=r"no class 'FACE'; name some of .*FACE_FEMALE"):
        NudityImageLabeller(["FACE"])
    with pytest.raises(DataError, match="image 1"):
        NudityImageLabeller(["FACE_MALE"]).score([DOGS[0], b"no picture"])


def test_without_the_extra_the_line_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "nudenet", None)
    monkeypatch.setitem(sys.modules, "nudenet.nudenet", None)
    with pytest.raises(ModelError, match=r"NudeNet is not installed .*; install safeclip\[nudity\]") as error:
        NudityImageLabeller(["FACE_MALE"])
    assert "\n" not in str(error.value)


class LengthLabeller:
    """Scores an image by how many bytes it has, against a limit."""

    def __init__(self, data_folder: DataFolder, *, limit: int) -> None:
        assert data_folder.root == DATA
        self._limit = limit

    def score(self, items: Sequence[bytes]) -> np.ndarray:
        return np.array([min(len(item) / self._limit, 1.0) for item in items], np.float32)


def test_a_labeller_of_one_s_own_is_named_by_its_import_path() -> None:
    cfg = CustomLabeller(
        kind="custom",
        recall=0.97,
        name="length",
        labeller=f"{__name__}:LengthLabeller",
        options={"limit": 10},
    )
    known = Calibration([b"12345", b"1234567890"], [False, True], [[], ["hate"]])
    labeller, scores = make_image_labeller(cfg, DataFolder(DATA), [], known)
    assert isinstance(labeller, LengthLabeller)
    assert scores.tolist() == [0.5, 1.0]


@pytest.mark.parametrize("path", ["no_such_package:Labeller", f"{__name__}:Nothing"])
def test_a_wrong_import_path_is_one_line(path: str) -> None:
    cfg = CustomLabeller(kind="custom", recall=0.97, name="x", labeller=path)
    with pytest.raises(SettingsError, match="correct the path") as error:
        make_image_labeller(cfg, DataFolder(DATA), [], Calibration([], [], []))
    assert "\n" not in str(error.value)
