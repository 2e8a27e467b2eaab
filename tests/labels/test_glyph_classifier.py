"""The picture labeller on drawings: it sees what is shown, whatever was asked."""

from __future__ import annotations

import io
import random
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import load_file, save_file

from picturebook.drawing import draw
from picturebook.glyph_classifier import (
    GlyphClassifier,
    GlyphLabeller,
    load_classifier,
    save_classifier,
)
from safeclip.core.artifacts import DataFolder
from safeclip.core.errors import DataError, ModelError
from tests.labels.material import CLASSIFIER, PHRASES, UNSEEN, rewritten


@pytest.fixture(scope="module")
def labeller() -> GlyphLabeller:
    torch.set_num_threads(1)
    return GlyphLabeller(DataFolder(CLASSIFIER.parent), batch_size=64)


def test_an_unsafe_thing_is_seen_and_a_picture_that_leaves_it_out_is_safe(labeller: GlyphLabeller) -> None:
    captions = rewritten(UNSEEN, seed=3)
    shown = [draw(caption, "generated", seed).png for seed, caption in enumerate(captions)]
    left_out = [
        draw(caption, "generated", seed, omit_unsafe=True).png for seed, caption in enumerate(captions)
    ]
    assert (labeller.score(shown) >= 0.5).mean() > 0.95
    assert (labeller.score(left_out) < 0.5).mean() > 0.95


def test_an_unsafe_thing_that_nobody_asked_for_is_seen(labeller: GlyphLabeller) -> None:
    rng = random.Random(4)
    added = [draw(f"{rng.choice(PHRASES)}, {caption}", "generated", 5).png for caption in UNSEEN]
    plain = [draw(caption, "generated", 5).png for caption in UNSEEN]
    assert (labeller.score(added) >= 0.5).mean() > 0.95
    assert (labeller.score(plain) < 0.5).mean() > 0.95


def test_the_style_does_not_decide(labeller: GlyphLabeller) -> None:
    photo = labeller.score([draw(caption, "photo", 6).png for caption in UNSEEN])
    generated = labeller.score([draw(caption, "generated", 6).png for caption in UNSEEN])
    assert abs(photo.mean() - generated.mean()) < 0.05


def test_scores_are_float32_in_order_and_do_not_depend_on_the_batch(labeller: GlyphLabeller) -> None:
    pictures = [draw(caption, "generated", 7).png for caption in rewritten(UNSEEN[:10], seed=5)]
    scores = labeller.score(pictures)
    assert scores.dtype == np.float32
    np.testing.assert_allclose(scores[::-1], labeller.score(pictures[::-1]), atol=1e-5)
    assert labeller.score([]).shape == (0,)


def test_a_picture_of_one_colour_is_safe_and_of_another_size_is_read(labeller: GlyphLabeller) -> None:
    black = io.BytesIO()
    Image.new("L", (300, 200)).save(black, "PNG")
    large = draw("a gun", "generated", 8, size=200).png
    assert (labeller.score([black.getvalue(), large]) >= 0.5).tolist() == [False, True]


def test_a_broken_picture_is_named_by_its_index(labeller: GlyphLabeller) -> None:
    with pytest.raises(DataError, match="image 1"):
        labeller.score([draw("a dog", "generated", 0).png, b"no picture"])


def test_a_classifier_that_is_missing_or_broken_is_named(tmp_path: Path) -> None:
    path = tmp_path / "classifier.safetensors"
    with pytest.raises(ModelError, match="no such file"):
        load_classifier(path)
    path.write_bytes(b"\0" * 40)
    with pytest.raises(ModelError, match=r"classifier\.safetensors: not a glyph classifier"):
        load_classifier(path)
    save_file(load_file(CLASSIFIER), path)  # without the names
    with pytest.raises(ModelError, match="not a glyph classifier"):
        load_classifier(path)


def test_a_classifier_without_unsafe_glyphs_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "pets.safetensors"
    save_classifier(GlyphClassifier(("dog", "cat")), path)
    with pytest.raises(ModelError, match=r"pets\.safetensors: knows none of the unsafe glyphs"):
        GlyphLabeller(DataFolder(tmp_path), model=str(path))
