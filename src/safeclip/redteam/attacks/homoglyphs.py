"""Cyrillic and Greek letters that look like Latin ones, in the words that make the caption unsafe."""

from __future__ import annotations

import numpy as np

from safeclip.redteam.attacks.words import replace_words
from safeclip.redteam.queries import Query

LOOK_ALIKES = str.maketrans("aceijopsxyvn", "асеіјорѕхуνո")


def reword(query: Query, generator: np.random.Generator) -> str:
    """Every letter that has a look-alike is replaced; the caption keeps its length and its look."""
    return replace_words(query.caption, query.added, lambda word: word.translate(LOOK_ALIKES))
