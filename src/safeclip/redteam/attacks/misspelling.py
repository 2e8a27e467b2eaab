"""One slip of the finger in each of the words that make the caption unsafe."""

from __future__ import annotations

import numpy as np

from safeclip.redteam.attacks.words import replace_words
from safeclip.redteam.queries import Query


def reword(query: Query, generator: np.random.Generator) -> str:
    """Each added word of three letters or more: two neighbours swapped, a letter left out or doubled."""
    return replace_words(query.caption, query.added, lambda word: misspell(word, generator))


def misspell(word: str, generator: np.random.Generator) -> str:
    """`word` after one edit behind its first letter; words of one or two letters stay."""
    if len(word) < 3:
        return word
    at = int(generator.integers(1, len(word) - 1))
    slip = int(generator.integers(3))
    if slip == 0 and word[at] != word[at + 1]:
        return word[:at] + word[at + 1] + word[at] + word[at + 2 :]
    return word[:at] + word[at + 1 :] if slip == 1 else word[:at] + word[at] + word[at:]
