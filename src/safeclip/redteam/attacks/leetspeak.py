"""Digits for the letters that they look like, in the words that make the caption unsafe ("94n9", a gang)."""

from __future__ import annotations

import numpy as np

from safeclip.redteam.attacks.words import replace_words
from safeclip.redteam.queries import Query

DIGITS = str.maketrans("aegiost", "4391057")


def reword(query: Query, generator: np.random.Generator) -> str:
    """Every letter that a digit can stand for is replaced; the caption keeps its length."""
    return replace_words(query.caption, query.added, lambda word: word.translate(DIGITS))
