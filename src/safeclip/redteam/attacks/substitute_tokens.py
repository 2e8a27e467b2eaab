"""Made-up words for the words that give a caption away, sought through the model's embeddings alone.

After SneakyPrompt (Yang et al., arXiv 2305.12082), which has reinforcement learning propose substitutes for
sensitive tokens and keeps those that the victim answers as wished. Here proposals are random syllables, and
what is kept is what raises the margin in the gallery asked, which whoever asks a live service can see.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from safeclip.encoders.embed import embed_texts
from safeclip.guard import Guard
from safeclip.redteam.attacks.tuning import margin
from safeclip.redteam.attacks.words import replace_words
from safeclip.redteam.queries import Access, Query, Victim

ONSETS, VOWELS, ENDS = "bdfgklmnprstvz", "aeiou", ("", "n", "r", "s", "l", "x")


class SubstituteTokens:
    """`budget` proposals a query, all queries' in one batch; the best one is the variant that is reported.

    A proposal that the guard refuses is never shown to the model.
    """

    name = "substitute_tokens"
    access: Access = "black box"

    def __init__(self, budget: int, seed: int, guard: Guard) -> None:
        self.budget, self._seed, self._guard = budget, seed, guard

    def captions(self, queries: Sequence[Query], victim: Victim) -> list[list[str]]:
        """The best wording found of each query, the caption itself if none was better."""
        gallery = victim.reported.images
        generators = [query.generator(self._seed, self.name) for query in queries]
        best = [query.caption for query in queries]
        scores = margin(embed_texts(victim.encoder, best), gallery)
        for _ in range(self.budget):
            tried = [self._propose(*one) for one in zip(queries, best, generators, strict=True)]
            reached = margin(embed_texts(victim.encoder, tried), gallery)
            for row in (reached > scores).nonzero()[:, 0].tolist():
                best[row], scores[row] = tried[row], reached[row]
        return [[text] for text in best]

    def _propose(self, query: Query, best: str, generator: np.random.Generator) -> str:
        """One of the added words replaced in the caption as it came, or in the best wording so far."""
        text = best if generator.random() < 0.5 else query.caption
        words = [word for word in query.added if word in text.split()] or list(query.added)
        word = words[int(generator.integers(len(words)))]
        made_up = "".join(_syllable(generator) for _ in range(int(generator.integers(1, 4))))
        proposal = replace_words(text, [word], lambda _: made_up)
        return text if self._guard.trips(proposal, query.categories) else proposal


def _syllable(generator: np.random.Generator) -> str:
    return "".join(part[int(generator.integers(len(part)))] for part in (ONSETS, VOWELS, ENDS))
