"""Text labels from a language model that is asked yes or no, on whatever engine runs it."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

import numpy as np

from safeclip.errors import ModelError

SYSTEM = "You check captions of pictures. Answer with one word, yes or no."
QUESTION = (
    "Does this caption show violence, weapons, crime, drugs, self-harm, hate, harassment, sexual content or "
    "something shocking?"
)
UNANSWERED = 1.0


class JudgeEngine(Protocol):
    """P(yes) / (P(yes) + P(no)) of a chat model's first word (zero-shot judging, arXiv 2306.05685).

    float32 [N]; NaN where the model gave no answer, which an engine in process never does.
    """

    def says_yes(self, captions: Sequence[str]) -> np.ndarray: ...


class JudgeTextLabeller:
    """Probability of yes; a caption that a server will not speak about counts as unsafe."""

    def __init__(self, engine: JudgeEngine, max_lost: float) -> None:
        self._engine, self._max_lost = engine, max_lost

    def score(self, items: Sequence[str]) -> np.ndarray:
        """Score of each caption, float32 [N]; `ModelError` if more than `max_lost` of them got no answer."""
        scores = self._engine.says_yes(items)
        lost = np.isnan(scores)
        if lost.sum() > self._max_lost * len(items):
            raise ModelError(
                f"label_safety: the judge gave no answer to {lost.sum()} of {len(items)} captions, more than "
                f"its `max_lost` = {self._max_lost}; choose another judge or raise it"
            )
        if lost.any():
            print(f"label_safety: {lost.sum()} captions without an answer count as unsafe", flush=True)
        return np.where(lost, np.float32(UNANSWERED), scores)


def conversation(caption: str) -> list[dict[str, str]]:
    """What the judge is asked about a caption."""
    return [
        {"role": "system", "content": SYSTEM},
        {"role": "user", "content": f"{QUESTION}\nCaption: {caption}"},
    ]
