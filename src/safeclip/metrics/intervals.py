"""Give per-query outcomes (true or false) an interval: a paired bootstrap over scenes, the gallery fixed.

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
        """Return plain numbers, rounded to 6 digits so that a last-bit difference never shows."""
        ends = {"estimate": self.estimate, "low": self.low, "high": self.high}
        return {"n": self.n, **{name: round(value, 6) for name, value in ends.items()}}


@dataclass(frozen=True)
class Resampling:
    """Settings of the bootstrap. The same seed and metric name give the same replicates everywhere."""

    seed: int
    replicates: int = 1000
    confidence: float = 0.95

    def generator(self, name: str) -> np.random.Generator:
        """Return the generator of a metric's replicates."""
        return np.random.default_rng([self.seed, zlib.crc32(name.encode())])


def proportion_interval(outcomes: np.ndarray, resampling: Resampling, name: str = "") -> Interval:
    """Estimate the share of true values in `outcomes` [n] bool; a `DataError` if nothing was measured."""
    return _proportion(_binary(outcomes, name), resampling, name)


def contrast_interval(
    candidate: np.ndarray, reference: np.ndarray, resampling: Resampling, factor: float = 1.0, name: str = ""
) -> Interval:
    """Estimate mean(candidate) - factor * mean(reference) over the same queries.

    Both are [n] bool, paired by position. If either share is 0 or 1, the two marginal intervals are joined,
    each at half the error (Bonferroni), so the result covers at least as often as asked. If the two never
    differ and `factor` is 1, the interval is the exact bound on how often they could.

    Raises:
        DataError: no outcomes, outcomes that are not bool, or two lengths.
    """
    ours, theirs = _binary(candidate, name), _binary(reference, name)
    if len(ours) != len(theirs):
        raise DataError(f"{name}: {len(ours)} and {len(theirs)} outcomes cannot be paired; evaluate again")
    estimate = float(ours.mean() - factor * theirs.mean())
    if factor == 1.0 and np.array_equal(ours, theirs):
        reach = _exact_end(len(ours), 1.0 - resampling.confidence)
        return Interval(len(ours), estimate, -reach, reach)
    if _is_constant(ours) or _is_constant(theirs):
        return _joined(ours, theirs, resampling, factor, name)
    values = ours - factor * theirs
    return _percentiles(values, estimate, resampling, name)


def _joined(
    ours: np.ndarray, theirs: np.ndarray, resampling: Resampling, factor: float, name: str
) -> Interval:
    half = Resampling(resampling.seed, resampling.replicates, 0.5 + resampling.confidence / 2)
    a, b = _proportion(ours, half, name), _proportion(theirs, half, name)
    edges = sorted((factor * b.low, factor * b.high))
    return Interval(a.n, a.estimate - factor * b.estimate, a.low - edges[1], a.high - edges[0])


def _proportion(values: np.ndarray, resampling: Resampling, name: str) -> Interval:
    share, n = float(values.mean()), len(values)
    if _is_constant(values):
        reach = _exact_end(n, 1.0 - resampling.confidence)
        return Interval(n, share, 0.0, reach) if share == 0.0 else Interval(n, share, 1.0 - reach, 1.0)
    return _percentiles(values, share, resampling, name)


def _percentiles(values: np.ndarray, estimate: float, resampling: Resampling, name: str) -> Interval:
    distinct, counts = np.unique(values, return_counts=True)
    n = len(values)
    # shape: [replicates, distinct values]
    draws = resampling.generator(name).multinomial(n, counts / n, size=resampling.replicates)
    tail = (1.0 - resampling.confidence) / 2
    low, high = np.quantile(draws @ distinct / n, [tail, 1.0 - tail])
    return Interval(n, estimate, min(float(low), estimate), max(float(high), estimate))


def _exact_end(n: int, alpha: float) -> float:
    """Return the upper Clopper-Pearson end for 0 of n at two-sided error `alpha`; n of n mirrors it."""
    return 1.0 - (alpha / 2) ** (1.0 / n)


def _is_constant(values: np.ndarray) -> bool:
    return bool((values == values[0]).all())


def _binary(outcomes: np.ndarray, name: str) -> np.ndarray:
    if len(outcomes) == 0:
        raise DataError(f"{name or 'outcomes'}: no query was measured; check the test split and its truth")
    if outcomes.dtype != np.bool_:
        raise DataError(f"{name or 'outcomes'}: outcomes must be true or false, not {outcomes.dtype}")
    return outcomes.astype(np.float64)
