"""Intervals: exact where a bootstrap is blind, right as often as they say, fast, and the same twice."""

from __future__ import annotations

import time

import numpy as np
import pytest

from safeclip.core.errors import DataError
from safeclip.metrics.intervals import Resampling, contrast_interval, proportion_interval

HOW = Resampling(seed=7)


def share(true: int, n: int) -> np.ndarray:
    return np.arange(n) < true


def test_no_success_has_the_exact_upper_end() -> None:
    interval = proportion_interval(share(0, 100), HOW)
    # Clopper and Pearson for 0 of 100 at 95 %: the p with (1 - p)^100 = 0.025.
    assert (interval.estimate, interval.low) == (0.0, 0.0)
    assert (1 - interval.high) ** 100 == pytest.approx(0.025)


def test_only_successes_mirror_it() -> None:
    interval = proportion_interval(share(50, 50), HOW)
    assert (interval.estimate, interval.high) == (1.0, 1.0)
    assert interval.low**50 == pytest.approx(0.025)


def test_one_query_says_almost_nothing() -> None:
    interval = proportion_interval(share(0, 1), HOW)
    assert interval.high == pytest.approx(0.975)


def test_agrees_with_resampling_scene_by_scene() -> None:
    rng = np.random.default_rng(0)
    base = rng.random(400) < 0.8
    candidate = np.where(rng.random(400) < 0.3, ~base, base)
    values = candidate - 0.7 * base
    slow = np.quantile([rng.choice(values, 400).mean() for _ in range(4000)], [0.025, 0.975])
    fast = contrast_interval(candidate, base, Resampling(1, 4000), 0.7)
    assert [fast.low, fast.high] == pytest.approx(slow, abs=0.006)
    assert fast.estimate == pytest.approx(values.mean())


def test_pairing_by_query_narrows_the_interval() -> None:
    rng = np.random.default_rng(3)
    base = rng.random(1000) < 0.5
    alike = np.where(rng.random(1000) < 0.05, ~base, base)
    paired = contrast_interval(alike, base, HOW)
    broken = contrast_interval(rng.permutation(alike), base, HOW)
    assert paired.high - paired.low < 0.6 * (broken.high - broken.low)


def test_a_proportion_is_covered_as_often_as_promised() -> None:
    rng = np.random.default_rng(5)
    hits = 0
    for trial in range(400):
        interval = proportion_interval(rng.random(300) < 0.2, Resampling(trial))
        hits += interval.low <= 0.2 <= interval.high
    assert 0.91 <= hits / 400 <= 0.985


@pytest.mark.parametrize("harm", [0.001, 0.3])
def test_a_contrast_is_covered_as_often_as_promised(harm: float) -> None:
    rng = np.random.default_rng(6)
    truth, hits = harm - 0.7 * 0.95, 0
    for trial in range(300):
        interval = contrast_interval(rng.random(200) < harm, rng.random(200) < 0.95, Resampling(trial), 0.7)
        hits += interval.low <= truth <= interval.high
    assert hits / 300 >= 0.91


def test_models_that_never_differ_might_still_differ_elsewhere() -> None:
    same = share(60, 100)
    interval = contrast_interval(same, same, HOW)
    assert interval.estimate == 0.0
    assert (1 - interval.high) ** 100 == pytest.approx(0.025)
    assert interval.low == -interval.high


def test_a_candidate_at_zero_keeps_a_width() -> None:
    interval = contrast_interval(share(0, 100), share(100, 100), HOW, 0.7)
    assert interval.estimate == pytest.approx(-0.7)
    assert interval.low == pytest.approx(-0.7)  # it cannot be lower
    assert -0.69 < interval.high < -0.6


def test_same_seed_and_name_give_the_same_ends() -> None:
    outcomes = share(901, 3000)
    assert proportion_interval(outcomes, HOW, "a") == proportion_interval(outcomes, HOW, "a")
    assert proportion_interval(outcomes, HOW, "a") != proportion_interval(outcomes, Resampling(8), "a")


def test_a_thousand_replicates_of_two_thousand_queries_take_well_under_a_second() -> None:
    rng = np.random.default_rng(0)
    candidate, base = rng.random(2000) < 0.3, rng.random(2000) < 0.9
    start = time.process_time()
    contrast_interval(candidate, base, HOW, 0.7)
    assert time.process_time() - start < 0.5


def test_nothing_measured_is_an_error_not_a_zero() -> None:
    with pytest.raises(DataError, match=r"t2i: no query was measured"):
        proportion_interval(np.array([], dtype=bool), HOW, "t2i")


def test_numbers_are_no_outcomes() -> None:
    with pytest.raises(DataError, match="true or false"):
        proportion_interval(np.array([0.0, np.nan]), HOW)


def test_unequal_lengths_are_not_paired() -> None:
    with pytest.raises(DataError, match="cannot be paired"):
        contrast_interval(share(1, 3), share(1, 4), HOW)
