"""The same words in another order."""

from __future__ import annotations

import numpy as np

from safeclip.redteam.queries import Query


def reword(query: Query, generator: np.random.Generator) -> str:
    """All words shuffled; nothing is added or lost."""
    words = query.caption.split()
    return " ".join(words[place] for place in generator.permutation(len(words)))
