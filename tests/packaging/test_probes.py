"""Probes packaged with a model: they separate what the embedding separates, and say how well."""

import numpy as np
import pytest

from safeclip.core.errors import DataError
from safeclip.packaging.probes import Labelled, fit_probe
from safeclip.serving.embedder import Scorer


def labelled(seed: int, count: int = 200) -> Labelled:
    """Unit vectors; the first coordinate tells unsafe, the second violence from hate."""
    generator = np.random.default_rng(seed)
    vectors = generator.normal(size=(count, 8)).astype(np.float32)
    unsafe = np.arange(count) % 2 == 1
    vectors[:, 0] = np.where(unsafe, 3, -3)
    vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
    categories = [
        (["violence"] if row[1] > 0 else ["hate"]) if bad else []
        for row, bad in zip(vectors, unsafe, strict=True)
    ]
    return Labelled(np.hstack([vectors, moved(vectors, unsafe)]), unsafe, categories)


def moved(base: np.ndarray, unsafe: np.ndarray) -> np.ndarray:
    """Served embeddings of an encoder that sends what is unsafe to the other side."""
    return np.where(unsafe[:, None], -base, base)


CATEGORIES = ["hate", "never seen", "violence"]


def probe() -> dict:
    val = labelled(2)
    return fit_probe(labelled(1), val, np.where(val.unsafe, 0.5, 0.1), CATEGORIES, seed=7)


def test_the_packaged_probe_judges_new_inputs() -> None:
    new = labelled(3)
    scorer = Scorer({"text": probe(), "image": probe()})
    base, served = np.hsplit(new.features, 2)
    scores = scorer.score("text", base, served)
    assert all(score.unsafe for score, bad in zip(scores, new.unsafe, strict=True) if bad)
    assert np.mean([score.unsafe for score in scores]) < 0.55  # half of them are unsafe
    assert [score.redirected for score in scores] == new.unsafe.tolist()
    worst = {
        row: max(score.categories, key=score.categories.__getitem__)
        for row, score in enumerate(scores)
        if new.unsafe[row]
    }
    assert np.mean([found == new.categories[row][0] for row, found in worst.items()]) > 0.9
    assert all(score.categories["never seen"] < 1e-6 for score in scores)


def test_thresholds_keep_to_the_stated_share_of_false_alarms() -> None:
    scoring = probe()["scoring"]
    assert scoring["false_alarms"] <= 0.05
    assert scoring["recall"] == 1.0
    assert scoring["n"] == 200


def test_the_same_inputs_give_the_same_probe() -> None:
    assert probe() == probe()


def test_a_split_that_cannot_measure_is_refused() -> None:
    val = labelled(2)
    safe = Labelled(val.features, np.zeros(len(val.unsafe), bool), val.categories)
    with pytest.raises(DataError, match="val split: safe and unsafe inputs are both needed"):
        fit_probe(labelled(1), safe, np.zeros(200), CATEGORIES, seed=7)
