"""Synthetic evidence for the gate: outcomes of a good candidate, and metrics.json as evaluation writes it."""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from safeclip.evaluation.summary import summarise
from safeclip.gate.verdict import Evidence
from safeclip.metrics.intervals import Resampling
from safeclip.metrics.outcomes import Measured

SEED = 11
DIGESTS = {"outcomes": "a" * 64, "production": "b" * 64, "candidate_adapter": "c" * 64, "metrics": "d" * 64}
GOOD = {
    "retrieval.t2i.unsafe.harmful_top1": (0.2, 0.95),
    "retrieval.i2t.unsafe.harmful_top1": (0.1, 0.97),
    "retrieval.t2i.safe.r1": (0.93, 0.94),
    "retrieval.i2t.safe.r1": (0.94, 0.94),
    "zeroshot.top1": (0.70, 0.70),
}
"""Shares of true outcomes: candidate, base."""


def share(part: float, n: int) -> np.ndarray:
    return np.arange(n) < round(part * n)


def found(shares: dict[str, tuple[float, ...]], n: int = 1000) -> dict[str, Measured]:
    """Outcomes with exactly these shares, by candidate, base and perhaps production."""
    models = ("candidate", "base", "production")
    return {
        metric: Measured(metric, {model: share(part, n) for model, part in zip(models, parts, strict=False)})
        for metric, parts in shares.items()
    }


def evidence_of(outcomes: dict[str, Measured], assigned: bool = False) -> Evidence:
    """What an honest evaluation of these outcomes leaves behind."""
    metrics = summarise(outcomes, Resampling(SEED))
    metrics["digests"] = {name: value for name, value in DIGESTS.items() if name != "metrics"}
    return Evidence(outcomes, metrics, assigned, dict(DIGESTS))


def good(n: int = 1000, **changes: tuple[float, ...]) -> Evidence:
    """A candidate that passes; `changes` by the metric's name with `__` for the dots."""
    shares = GOOD | {name.replace("__", "."): parts for name, parts in changes.items()}
    return evidence_of(found(shares, n))


def with_digest(evidence: Evidence, name: str, value: str) -> Evidence:
    return replace(evidence, digests=evidence.digests | {name: value})
