"""Labels that the other rows speak against: confident learning (Northcutt et al., arXiv 1911.00068)."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

FOLDS = 4


def doubtful_labels(captions: Sequence[str], unsafe: Sequence[bool]) -> np.ndarray | None:
    """bool[N]: the caption's label is likely wrong, by a model of words fitted on the other folds.

    None if there are too few captions of one kind to fit and test on.
    """
    from cleanlab.filter import find_label_issues
    from sklearn.feature_extraction.text import CountVectorizer
    from sklearn.linear_model import LogisticRegression
    from sklearn.model_selection import StratifiedKFold, cross_val_predict
    from sklearn.pipeline import make_pipeline

    labels = np.asarray(unsafe, dtype=int)
    if min(labels.sum(), len(labels) - labels.sum()) < FOLDS:
        return None
    words = CountVectorizer(binary=True, ngram_range=(1, 2), token_pattern=r"[^\W_]+")
    model = make_pipeline(words, LogisticRegression(class_weight="balanced", max_iter=1000))
    folds = StratifiedKFold(FOLDS)
    chances = cross_val_predict(model, list(captions), labels, cv=folds, method="predict_proba")
    return np.asarray(find_label_issues(labels, chances, n_jobs=1), dtype=bool)
