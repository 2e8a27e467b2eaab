"""Intervals for per-query outcomes (true or false): a paired bootstrap over scenes, the gallery fixed.

Percentile bootstrap (Efron and Tibshirani, An Introduction to the Bootstrap, 1993, chapters 13 and 16).
Outcomes are binary, so resampling n scenes with replacement is the same as one multinomial draw of n over
the distinct (candidate, reference) pairs with their observed shares: a replicate costs at most four numbers
instead of n. Where a proportion sits at 0 or 1 a bootstrap has no width and says nothing: there the interval
is exact (Clopper and Pearson, Biometrika 26, 1934), which at 0 of n has the closed form 1 - (alpha/2)^(1/n).
"""

from __future__ import annotations

import zlib
from dataclasses import dataclass

import numpy as np

from safeclip.core.errors import DataError


@dataclass(frozen=True)
class Interval:
    """An estimate from `n` queries with the two ends of its interval."""

    n: int
    estimate: float
    low: float
    high: float

    def as_dict(self) -> dict[str, float]:
        """Plain numbers, rounded to 6 digits so that a last-bit difference never shows."""
        ends = {"estimate": self.estimate, "low": self.low, "high": self.high}
        return {"n": self.n, **{name: round(value, 6) for name, value in ends.items()}}


@dataclass(frozen=True)
class Resampling:
    """How intervals are computed. The same seed and metric name give the same replicates everywhere."""

    seed: int
    replicates: int = 1000
    confidence: float = 0.95

    def generator(self, name: str) -> np.random.Generator:
        return np.random.default_rng([self.seed, zlib.crc32(name.encode())])


def proportion_interval(outcomes: np.ndarray, how: Resampling, name: str = "") -> Interval:
    """Share of true values in `outcomes` [n] bool. `DataError` if there is none: nothing was measured."""
    return _proportion(_binary(outcomes, name), how, name)


def contrast_interval(
    candidate: np.ndarray, reference: np.ndarray, how: Resampling, factor: float = 1.0, name: str = ""
) -> Interval:
    """mean(candidate) - factor * mean(reference) over the same queries, both [n] bool, paired by position.

    If either share sits at 0 or 1, the two marginal intervals are joined, each at half the error
    (Bonferroni), so the result covers at least as often as asked. If the two never differ and `factor`
    is 1, the interval is the exact bound on how often they could.
    """
    ours, theirs = _binary(candidate, name), _binary(reference, name)
    if len(ours) != len(theirs):
        raise DataError(f"{name}: {len(ours)} and {len(theirs)} outcomes cannot be paired; evaluate again")
    estimate = float(ours.mean() - factor * theirs.mean())
    if factor == 1.0 and np.array_equal(ours, theirs):
        reach = _exact_end(len(ours), 1.0 - how.confidence)
        return Interval(len(ours), estimate, -reach, reach)
    if _sits_at_an_end(ours) or _sits_at_an_end(theirs):
        return _joined(ours, theirs, how, factor, name)
    values = ours - factor * theirs
    return _percentiles(values, estimate, how, name)


def _joined(ours: np.ndarray, theirs: np.ndarray, how: Resampling, factor: float, name: str) -> Interval:
    half = Resampling(how.seed, how.replicates, 0.5 + how.confidence / 2)
    a, b = _proportion(ours, half, name), _proportion(theirs, half, name)
    edges = sorted((factor * b.low, factor * b.high))
    return Interval(a.n, a.estimate - factor * b.estimate, a.low - edges[1], a.high - edges[0])


def _proportion(values: np.ndarray, how: Resampling, name: str) -> Interval:
    share, n = float(values.mean()), len(values)
    if _sits_at_an_end(values):
        reach = _exact_end(n, 1.0 - how.confidence)
        return Interval(n, share, 0.0, reach) if share == 0.0 else Interval(n, share, 1.0 - reach, 1.0)
    return _percentiles(values, share, how, name)


def _percentiles(values: np.ndarray, estimate: float, how: Resampling, name: str) -> Interval:
    distinct, counts = np.unique(values, return_counts=True)
    n = len(values)
    draws = how.generator(name).multinomial(n, counts / n, size=how.replicates)  # [replicates, distinct]
    tail = (1.0 - how.confidence) / 2
    low, high = np.quantile(draws @ distinct / n, [tail, 1.0 - tail])
    return Interval(n, estimate, min(float(low), estimate), max(float(high), estimate))


def _exact_end(n: int, alpha: float) -> float:
    """Upper Clopper-Pearson end for 0 of n at two-sided error `alpha`; n of n mirrors it."""
    return 1.0 - (alpha / 2) ** (1.0 / n)


def _sits_at_an_end(values: np.ndarray) -> bool:
    return bool((values == values[0]).all())


def _binary(outcomes: np.ndarray, name: str) -> np.ndarray:
    if len(outcomes) == 0:
        raise DataError(f"{name or 'outcomes'}: no query was measured; check the test split and its truth")
    if outcomes.dtype != np.bool_:
        raise DataError(f"{name or 'outcomes'}: outcomes must be true or false, not {outcomes.dtype}")
    return outcomes.astype(np.float64)
