"""The n-gram labeller on real captions: unseen ones, their unsafe rewrites, and parts of the phrases."""

from __future__ import annotations

import numpy as np
import pytest

from safeclip.labels.text import NgramTextLabeller, insert_phrases, phrase_variants
from tests.labels.material import PAIRS, PHRASES, TRAIN, UNSEEN, rewritten


@pytest.fixture(scope="module")
def labeller() -> NgramTextLabeller:
    return NgramTextLabeller(PAIRS, PHRASES, TRAIN[:200], seed=1)


def test_unseen_captions_are_told_from_their_unsafe_rewrites(labeller: NgramTextLabeller) -> None:
    safe, unsafe = labeller.score(UNSEEN), labeller.score(rewritten(UNSEEN, seed=2))
    assert (safe < 0.5).mean() > 0.9
    assert (unsafe >= 0.5).mean() > 0.9


def test_what_a_rewriter_keeps_of_a_phrase_is_seen(labeller: NgramTextLabeller) -> None:
    kept = ["a vampire hides behind a tv", "a villain eats a hamburger", "a bandit lands next to a sunflower"]
    assert (labeller.score(kept) >= 0.5).all()


def test_scores_are_float32_probabilities_and_repeat(labeller: NgramTextLabeller) -> None:
    again = NgramTextLabeller(PAIRS, PHRASES, TRAIN[:200], seed=1)
    first, second = labeller.score(UNSEEN), again.score(UNSEEN)
    assert first.dtype == np.float32
    assert ((first >= 0) & (first <= 1)).all()
    np.testing.assert_array_equal(first, second)
    assert labeller.score([]).shape == (0,)


def test_parts_leave_out_places_and_harmless_words() -> None:
    phrases = ["a raid by bandits", "spying eyes at a window", "a vampire with blood", "a hate sign"]
    assert phrase_variants(phrases) == ["bandits", "blood", "hate sign", "spying eyes", "vampire"]


def test_insertion_uses_every_phrase_and_is_seeded() -> None:
    made = insert_phrases(TRAIN, PHRASES, len(PHRASES), seed=7)
    assert all(phrase in text for phrase, text in zip(PHRASES, made, strict=True))
    assert made == insert_phrases(TRAIN, PHRASES, len(PHRASES), seed=7)
    assert made != insert_phrases(TRAIN, PHRASES, len(PHRASES), seed=8)
