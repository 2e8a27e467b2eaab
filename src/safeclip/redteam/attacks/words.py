"""What the attacks on wording share: one caption at a time, blindly, `tries` times."""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence

import numpy as np

from safeclip.redteam.queries import Access, Query, Victim

Rewording = Callable[[Query, np.random.Generator], str]


class WordingAttack:
    """Applies a rewording to each query `tries` times, with randomness of the query's own."""

    access: Access = "blind"

    def __init__(self, name: str, reword: Rewording, tries: int, seed: int) -> None:
        self.name, self.budget = name, tries
        self._reword, self._seed = reword, seed

    def captions(self, queries: Sequence[Query], victim: Victim) -> list[list[str]]:
        """Distinct wordings of each query, in the order found. `victim` is not looked at."""
        return [self._tried(query) for query in queries]

    def _tried(self, query: Query) -> list[str]:
        generator = query.generator(self._seed, self.name)
        return list(dict.fromkeys(self._reword(query, generator) for _ in range(self.budget)))


def replace_words(caption: str, words: Sequence[str], new: Callable[[str], str]) -> str:
    """`caption` with each whole word that is among `words` (case counts) replaced by `new(word)`."""
    wanted = set(words)
    return re.sub(r"\w+", lambda match: new(match[0]) if match[0] in wanted else match[0], caption)
