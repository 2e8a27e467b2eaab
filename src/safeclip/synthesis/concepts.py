"""Draw the concept that a safe caption is rewritten with, among the phrases nearest to it.

The draw is uniform over the phrases (the published recipe, arXiv 2311.16254), or for a share of the rows
uniform over their categories first, so that a category of few phrases is asked for as often as one of many.
Nearness is the cosine of the base encoder's text embeddings: a concept that fits the scene gives a caption
that keeps it. Phrases the guard does not allow for the caption are never candidates (what policy excludes has
no phrase to begin with).
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import cache
from itertools import islice
from typing import Any

import numpy as np
import torch

from safeclip.core.guard import Guard
from safeclip.core.taxonomy import Phrase, Taxonomy
from safeclip.encoders.embed import embed_texts
from safeclip.encoders.load import Encoder
from safeclip.synthesis.row_noise import row_generator


@dataclass(frozen=True)
class ConceptDraw:
    """The phrase drawn for a row (None if there was nothing to draw from) and among how many."""

    phrase: Phrase | None
    eligible: int


def nearness(encoder: Encoder, captions: Sequence[str], phrases: Sequence[Phrase]) -> torch.Tensor:
    """Return cosines [captions, phrases] of the encoder's text embeddings."""
    return embed_texts(encoder, captions) @ embed_texts(encoder, [phrase.text for phrase in phrases]).T


def draw_concepts(
    rows: Sequence[tuple[str, str]],
    phrases: Sequence[Phrase],
    similarity: torch.Tensor,
    guard: Guard,
    *,
    nearest: int,
    balance: float = 0.0,
    seed: int,
) -> list[ConceptDraw]:
    """Draw a concept for each (id, safe caption); `similarity` [rows, phrases] holds the cosines.

    `balance` is the share of rows whose category is drawn before the phrase. The draw is keyed by (seed, row
    id), so a row keeps its concept whatever other rows there are.
    """
    order = torch.argsort(similarity, dim=-1, descending=True, stable=True).numpy()
    draws = []
    for row, (row_id, caption) in enumerate(rows):
        eligible = _eligible(caption, (phrases[at] for at in order[row]), guard, nearest)
        draws.append(_draw(eligible, balance, row_generator(seed, row_id, "concept")))
    return draws


def _eligible(caption: str, by_nearness: Iterable[Phrase], guard: Guard, nearest: int) -> list[Phrase]:
    """Return the nearest phrases that the guard allows; it is asked once for each set of categories."""
    allows = cache(lambda categories: guard.allows(caption, categories))
    return list(islice((phrase for phrase in by_nearness if allows(phrase.categories)), nearest))


def _draw(eligible: list[Phrase], balance: float, generator: np.random.Generator) -> ConceptDraw:
    if not eligible:
        return ConceptDraw(None, 0)
    pool = eligible
    if balance and generator.random() < balance:
        categories = sorted({name for phrase in eligible for name in phrase.categories})
        category = categories[int(generator.integers(len(categories)))]
        pool = [phrase for phrase in eligible if category in phrase.categories]
    return ConceptDraw(pool[int(generator.integers(len(pool)))], len(eligible))


def concept_report(draws: Sequence[ConceptDraw], taxonomy: Taxonomy) -> dict[str, Any]:
    """Report what policy leaves to draw from, and what was drawn.

    `eligible` counts the phrases that a row could draw from; `drawn` the rows by category of their phrase, of
    which a phrase may have several.
    """
    counts = np.sort([draw.eligible for draw in draws]) if draws else np.zeros(1)
    drawn = Counter(name for draw in draws if draw.phrase for name in draw.phrase.categories)
    return {
        "concepts_published": len(taxonomy.concepts),
        "concepts_excluded": sum(concept.policy == "exclude" for concept in taxonomy.concepts),
        "phrases": len(taxonomy.phrases),
        "eligible": {
            "min": int(counts[0]),
            "median": int(counts[len(counts) // 2]),
            "max": int(counts[-1]),
            "rows_without": sum(draw.phrase is None for draw in draws),
        },
        "drawn": {name: drawn[name] for name in taxonomy.categories},
    }
