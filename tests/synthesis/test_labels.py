"""The labellers on real captions, drawings and the project's own base encoder; small samples, fixed seeds."""

from __future__ import annotations

import json
import random
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
import torch

from safeclip.encoders.load import load_encoder
from safeclip.errors import DataError
from safeclip.guard import load_guard
from safeclip.picturebook.drawing import draw
from safeclip.records import CAPTIONS, IMAGES, LABELLED, TRUTH, read_table, write_table
from safeclip.settings.project import Settings
from safeclip.stages.label_safety import label_safety
from safeclip.synthesis.labels import (
    Depicted,
    NgramTextLabeller,
    PromptImageLabeller,
    labels_of,
    put_in,
    shared_words,
)
from safeclip.synthesis.pairs import load_pairs
from safeclip.taxonomy import load_taxonomy

DATA = Path(__file__).parents[2] / "data"
TAXONOMY = load_taxonomy(DATA / "taxonomy.yaml")
PHRASES = [phrase.text for phrase in TAXONOMY.phrases]
PAIRS = load_pairs(DATA / "curated_pairs.jsonl", load_guard(), TAXONOMY)
ROWS = [json.loads(line) for line in (DATA / "captions.jsonl").read_text().splitlines()]
TRAIN = [row["caption"] for row in ROWS if row["split"] == "train"][:400]
UNSEEN = [row["caption"] for row in ROWS if row["split"] == "val"][:80]


def rewritten(captions: list[str], seed: int) -> list[str]:
    """Captions with a phrase in place of one to four of their words, or behind them."""
    rng, out = random.Random(seed), []
    for caption in captions:
        words, phrase, start = caption.split(), rng.choice(PHRASES), rng.randrange(4)
        tail = [*words[:start], phrase, *words[start + rng.randint(1, 4) :]]
        out.append(" ".join(tail) if rng.random() < 0.5 else f"{caption} while holding {phrase}")
    return out


@pytest.fixture(scope="module")
def text_labeller() -> NgramTextLabeller:
    return NgramTextLabeller(PAIRS, PHRASES, TRAIN, seed=1)


@pytest.fixture(scope="module")
def image_labeller() -> PromptImageLabeller:
    torch.set_num_threads(1)
    return PromptImageLabeller(load_encoder(DATA / "base_encoder"), PHRASES)


def test_unseen_captions_are_told_from_their_unsafe_rewrites(text_labeller: NgramTextLabeller) -> None:
    safe, unsafe = text_labeller.score(UNSEEN), text_labeller.score(rewritten(UNSEEN, seed=2))
    assert (safe < 0.5).mean() > 0.9
    assert (unsafe >= 0.5).mean() > 0.9


def test_text_scores_are_float32_probabilities_and_repeat(text_labeller: NgramTextLabeller) -> None:
    again = NgramTextLabeller(PAIRS, PHRASES, TRAIN, seed=1)
    first, second = text_labeller.score(UNSEEN), again.score(UNSEEN)
    assert first.dtype == np.float32
    assert ((first >= 0) & (first <= 1)).all()
    np.testing.assert_array_equal(first, second)
    assert text_labeller.score([]).shape == (0,)


def _drawn(captions: list[str], safe: list[str], *, asks_unsafe: bool, omit: bool = False) -> list[Depicted]:
    return [
        Depicted(draw(caption, "generated", seed, omit_unsafe=omit).png, caption, original, asks_unsafe)
        for seed, (caption, original) in enumerate(zip(captions, safe, strict=True))
    ]


def test_pictures_that_show_the_unsafe_thing_are_told_from_those_that_leave_it_out(
    image_labeller: PromptImageLabeller,
) -> None:
    unsafe = rewritten(UNSEEN, seed=3)
    shown = image_labeller.score(_drawn(unsafe, UNSEEN, asks_unsafe=True))
    left_out = image_labeller.score(_drawn(unsafe, UNSEEN, asks_unsafe=True, omit=True))
    assert (shown >= 0.5).mean() > 0.85
    assert (left_out < 0.5).mean() > 0.8


def test_an_unsafe_thing_added_to_a_harmless_caption_is_seen(image_labeller: PromptImageLabeller) -> None:
    rng, captions = random.Random(4), UNSEEN[:40]
    plain = _drawn(captions, captions, asks_unsafe=False)
    added = [
        Depicted(draw(f"{rng.choice(PHRASES)}, {caption}", "generated", seed).png, caption, caption, False)
        for seed, caption in enumerate(captions)
    ]
    assert (image_labeller.score(plain) < 0.5).mean() > 0.85
    assert (image_labeller.score(added) >= 0.5).mean() > 0.8


def test_image_scores_are_float32_probabilities_in_order(image_labeller: PromptImageLabeller) -> None:
    unsafe = rewritten(UNSEEN[:6], seed=5)
    items = _drawn(unsafe, UNSEEN[:6], asks_unsafe=True)
    items[1::2] = _drawn(UNSEEN[:6], UNSEEN[:6], asks_unsafe=False)[1::2]
    scores = image_labeller.score(items)
    assert scores.dtype == np.float32
    assert ((scores >= 0) & (scores <= 1)).all()
    np.testing.assert_allclose(scores[::-1], image_labeller.score(items[::-1]), atol=1e-4)
    assert image_labeller.score([]).shape == (0,)


def test_a_broken_picture_is_named_by_its_index(image_labeller: PromptImageLabeller) -> None:
    good = draw("a dog", "generated", 0).png
    items = [Depicted(image, "a dog", "a dog", False) for image in (good, b"no picture")]
    with pytest.raises(DataError, match="image 1"):
        image_labeller.score(items)


def test_the_threshold_itself_is_unsafe() -> None:
    assert labels_of(np.array([0.49, 0.5, 0.51]), 0.5) == ["safe", "unsafe", "unsafe"]


def test_shared_words_keep_their_order_and_are_never_empty() -> None:
    assert shared_words("a man holds a gun near a shop", "near a shop a man rests") == "a man a near a shop"
    assert shared_words("guns everywhere", "a quiet park") == "a quiet park"


def test_put_in_uses_every_phrase_and_is_seeded() -> None:
    made = put_in(TRAIN, PHRASES, len(PHRASES), seed=7)
    assert all(phrase in text for phrase, text in zip(PHRASES, made, strict=True))
    assert made == put_in(TRAIN, PHRASES, len(PHRASES), seed=7)
    assert made != put_in(TRAIN, PHRASES, len(PHRASES), seed=8)


def _write_inputs(*, truth: bool, extra_picture: bool = False) -> None:
    captions, images, truths = [], [], []
    for row, (safe, unsafe) in enumerate(zip(UNSEEN[:30], rewritten(UNSEEN[:30], seed=9), strict=True)):
        row_id, fields = f"row-{row:02d}", dict.fromkeys(CAPTIONS.names, "x")
        asks_unsafe, split = row % 5 != 0, "train" if row < 20 else "test"
        caption = unsafe if asks_unsafe else safe
        fields |= {"id": row_id, "split": split, "caption_safe": safe, "caption_generated": caption}
        captions.append(fields | {"categories": ["violence"] if row % 2 else ["hate"], "seed": 1})
        image = draw(caption, "generated", row).png
        images.append({"id": row_id, "image_safe": image, "image_generated": image, "image_model": "x"})
        truths.append({"id": row_id, "text_unsafe": asks_unsafe, "image_unsafe": asks_unsafe})
    if extra_picture:
        images.append(images[0] | {"id": "row-stray"})
    write_table(Path("results/rewrite_captions/captions.parquet"), captions, CAPTIONS)
    write_table(Path("results/render_images/images-00000.parquet"), images[:15], IMAGES)
    write_table(Path("results/render_images/images-00001.parquet"), images[15:], IMAGES)
    if truth:
        empty: dict[str, list[str]] = {"glyphs_safe": [], "glyphs_generated": []}
        rows = [found | empty for found in truths]
        write_table(Path("results/render_images/truth.parquet"), pa.Table.from_pylist(rows, TRUTH), TRUTH)


def _settings() -> Settings:
    return Settings.model_validate({"data": {"path": str(DATA)}})


def test_the_stage_labels_every_picture_and_reports_its_error(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    _write_inputs(truth=True)
    label_safety(_settings())
    labels = read_table(Path("results/label_safety/labels.parquet"), LABELLED)
    metrics = json.loads(Path("results/label_safety/metrics.json").read_text())
    assert labels["id"].to_pylist() == [f"row-{row:02d}" for row in range(30)]
    assert sum(metrics["states"].values()) == metrics["n"] == 30
    assert metrics["text"]["accuracy"] > 0.8
    assert metrics["image"]["accuracy"] > 0.7
    assert set(metrics["text"]["by_category"]) == {"hate", "violence"}
    first = Path("results/label_safety/labels.parquet").read_bytes()
    label_safety(_settings())
    assert Path("results/label_safety/labels.parquet").read_bytes() == first


def test_the_truth_changes_no_label(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    written = []
    for truth in (True, False):
        folder = tmp_path / str(truth)
        folder.mkdir()
        monkeypatch.chdir(folder)
        _write_inputs(truth=truth)
        label_safety(_settings())
        written.append(Path("results/label_safety/labels.parquet").read_bytes())
        assert ("text" in json.loads(Path("results/label_safety/metrics.json").read_text())) is truth
    assert written[0] == written[1]


def test_a_picture_without_a_caption_stops_the_stage(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    _write_inputs(truth=False, extra_picture=True)
    with pytest.raises(DataError, match="row-stray"):
        label_safety(_settings())
    assert not Path("results/label_safety").exists()
