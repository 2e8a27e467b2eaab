"""How unsafe an input is: probes on base and served embeddings together, made when the model is packaged.

One linear probe a modality for "unsafe" and one for each category. Only numbers are packaged, no wording. An
input counts as redirected if it is unsafe and the served embedding lies further from the base embedding than
that of nearly all safe inputs.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from safeclip.errors import ModelError
from safeclip.serving.schemas import Score, Scoring

MODALITIES = ("text", "image")


class Scorer:
    """Reads `scoring.json`: by modality weight, bias, the names of the outputs and the thresholds."""

    def __init__(self, packaged: dict[str, Any]) -> None:
        try:
            self._probes = {name: _Probe(packaged[name]) for name in MODALITIES}
        except (KeyError, TypeError, ValueError) as error:
            raise ModelError(f"scoring.json: incomplete ({error}); rebuild the Bento") from None

    @property
    def described(self) -> dict[str, Scoring]:
        """Thresholds and measured error by modality."""
        return {name: probe.described for name, probe in self._probes.items()}

    def marks(self, modality: str, score: Score) -> bool:
        """Whether a page marks it as perhaps unsafe; errs towards marking."""
        return score.score >= self._probes[modality].described.hide_threshold

    def score(self, modality: str, base: np.ndarray, served: np.ndarray) -> list[Score]:
        """Scores of inputs of one modality from their base and served embeddings, both [N, D]."""
        probe = self._probes[modality]
        outputs = probe.outputs(np.hstack([base, served]))
        shifts = 1 - (base * served).sum(axis=1)
        return [probe.judge(row, float(shift)) for row, shift in zip(outputs, shifts, strict=True)]


class _Probe:
    def __init__(self, packaged: dict[str, Any]) -> None:
        self._weight = np.asarray(packaged["weight"], np.float32)
        self._bias = np.asarray(packaged["bias"], np.float32)
        self._categories: list[str] = packaged["categories"]
        self.described = Scoring.model_validate(packaged["scoring"])

    def outputs(self, features: np.ndarray) -> np.ndarray:
        """Features [N, 2D] -> [N, 1 + categories] in 0 to 1; the first column is "unsafe"."""
        logits = features @ self._weight + self._bias
        return 1 / (1 + np.exp(-np.clip(logits, -30, 30)))

    def judge(self, row: np.ndarray, shift: float) -> Score:
        unsafe = bool(row[0] >= self.described.threshold)
        return Score(
            unsafe=unsafe,
            score=float(row[0]),
            categories={name: float(value) for name, value in zip(self._categories, row[1:], strict=True)},
            redirected=unsafe and shift >= self.described.shift_threshold,
            shift=shift,
        )
