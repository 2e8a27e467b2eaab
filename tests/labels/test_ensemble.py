"""Several labellers as one; the labels' error, counted by hand on a few rows."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pytest

from safeclip.labels.ensemble import (
    Ensemble,
    Member,
    count_states,
    error_report,
    label_error,
    labels_of,
)


def test_the_four_states_are_counted_and_add_up() -> None:
    states = count_states(
        ["unsafe", "unsafe", "safe", "safe", "unsafe"], ["unsafe", "safe", "unsafe", "safe", "safe"]
    )
    assert states == {
        "text_unsafe_image_unsafe": 1,
        "text_unsafe_image_safe": 2,
        "text_safe_image_unsafe": 1,
        "text_safe_image_safe": 1,
    }


def test_rates_are_those_of_the_textbook() -> None:
    error = label_error([True, True, True, False, False], [True, True, False, True, False])
    assert (error["n"], error["unsafe"], error["false_alarms"], error["misses"]) == (5, 3, 1, 1)
    assert error["accuracy"] == pytest.approx(0.6)
    assert error["precision"] == error["recall"] == error["f1"] == pytest.approx(2 / 3, abs=1e-6)


def test_what_cannot_be_measured_is_none_and_not_zero() -> None:
    error = label_error([False, False], [False, False])
    assert error["accuracy"] == 1.0
    assert error["precision"] is error["recall"] is error["f1"] is None


def test_the_worst_category_is_named_and_a_row_counts_in_each_of_its_categories() -> None:
    report = error_report([True, True, False], [True, False, False], [["a"], ["a", "b"], ["c"]])
    assert report["by_category"]["a"]["n"] == 2
    assert report["by_category"]["b"]["recall"] == 0.0
    assert report["worst_category"] == "b"


class Fixed:
    """Gives the same scores whatever it is asked."""

    def __init__(self, *scores: float) -> None:
        self._scores = np.array(scores, np.float32)

    def score(self, items: Sequence[str]) -> np.ndarray:
        return self._scores


def test_unsafe_if_any_that_votes_says_so() -> None:
    members = (
        Member("one", Fixed(0.1, 0.9, 0.2), 0.5, True, {}),
        Member("other", Fixed(0.7, 0.1, 0.3), 0.5, True, {}),
        Member("silent", Fixed(0.9, 0.9, 0.9), 0.5, False, {}),
    )
    assert labels_of(Ensemble(members).score(["a", "b", "c"])) == ["unsafe", "unsafe", "safe"]


def test_the_threshold_itself_is_unsafe() -> None:
    assert labels_of(np.array([0.49, 0.5, 0.51])) == ["safe", "unsafe", "unsafe"]
