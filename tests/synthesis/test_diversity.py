"""Diversity figures agree with what they are defined as, and know when there is nothing to measure."""

from __future__ import annotations

import numpy as np
import pytest
from torchmetrics.functional.text import bleu_score

from safeclip.synthesis.diversity import distinct, self_bleu, vendi_score

TEXTS = [
    "a man holds a gun near the river",
    "a man holds a knife near the bridge at night",
    "two women look at a fire in the old town",
    "a dog runs past a burning car",
    "a man holds a gun near the gate",
]


def test_self_bleu_is_the_mean_bleu_against_all_others() -> None:
    one_by_one = [
        float(bleu_score([text], [[other for other in TEXTS if other is not text]], smooth=True))
        for text in TEXTS
    ]
    assert self_bleu(TEXTS) == pytest.approx(np.mean(one_by_one), abs=1e-6)
    assert self_bleu(["a man runs by the river"] * 3) == pytest.approx(1.0)
    assert self_bleu(TEXTS[:1]) is None


def test_distinct_counts_different_n_grams() -> None:
    assert distinct(["a b a b", "a b"], 1) == pytest.approx(2 / 6)
    assert distinct(["a b a b", "a b"], 2) == pytest.approx(2 / 4)
    assert distinct(["a"], 2) is None


def test_the_vendi_score_counts_effectively_different_rows() -> None:
    rows = np.eye(4, dtype=np.float32)
    assert vendi_score(rows) == pytest.approx(4.0)
    assert vendi_score(rows[[0, 0, 0, 0]]) == pytest.approx(1.0)
    assert vendi_score(rows[[0, 0, 1, 1]]) == pytest.approx(2.0)
    assert vendi_score(rows[:0]) is None
