"""Thresholds by stated recall, and the panel that says unsafe if any member does."""

from __future__ import annotations

import numpy as np
import pytest

from safeclip.core.errors import DataError
from safeclip.labels.panel import any_says_so, centre, choose_threshold, labels_of

SAFE, UNSAFE = [0.1, 0.2, 0.3, 0.4, 0.6], [0.35, 0.7, 0.8, 0.9, 0.95]
SCORES, TRUE = np.array(SAFE + UNSAFE), [False] * 5 + [True] * 5


@pytest.mark.parametrize(("recall", "found"), [(0.5, 4), (0.8, 4), (0.81, 5), (1.0, 5)])
def test_the_stated_share_of_the_unsafe_items_is_found(recall: float, found: int) -> None:
    threshold = choose_threshold(SCORES, TRUE, recall=recall)
    assert sum(score >= threshold for score in UNSAFE) >= found


def test_more_recall_never_means_a_higher_threshold() -> None:
    chosen = [choose_threshold(SCORES, TRUE, recall=share) for share in (0.2, 0.6, 0.8, 0.9, 1.0)]
    assert chosen == sorted(chosen, reverse=True)


def test_well_separated_scores_get_a_threshold_between_them() -> None:
    scores = np.array([0.01, 0.02, 0.05, 0.93, 0.97, 0.99])
    assert 0.05 < choose_threshold(scores, [False] * 3 + [True] * 3, recall=0.97) < 0.93


@pytest.mark.parametrize("scores", [np.zeros(10), 1.0 - SCORES])
def test_a_labeller_that_cannot_tell_is_refused(scores: np.ndarray) -> None:
    with pytest.raises(DataError, match="calling everything unsafe"):
        choose_threshold(scores, TRUE, recall=0.97)


def test_one_kind_alone_chooses_no_threshold() -> None:
    with pytest.raises(DataError, match="needs safe and unsafe"):
        choose_threshold(SCORES, [True] * 10, recall=0.9)


@pytest.mark.parametrize("threshold", [0.0, 0.2, 0.5, 0.99, 1.0])
def test_centring_keeps_order_and_decisions(threshold: float) -> None:
    scores = np.linspace(0, 1, 101)
    centred = centre(scores, threshold)
    assert centred.dtype == np.float32
    assert (np.diff(centred) >= 0).all()
    assert ((centred >= 0) & (centred <= 1)).all()
    np.testing.assert_array_equal(centred >= 0.5, scores >= threshold)


def test_unsafe_if_any_says_so() -> None:
    one, other = np.array([0.1, 0.9, 0.2], np.float32), np.array([0.7, 0.1, 0.3], np.float32)
    assert labels_of(any_says_so([one, other])) == ["unsafe", "unsafe", "safe"]


def test_the_threshold_itself_is_unsafe() -> None:
    assert labels_of(np.array([0.49, 0.5, 0.51])) == ["safe", "unsafe", "unsafe"]
