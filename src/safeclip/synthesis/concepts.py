"""Which concept a safe caption is rewritten with: a uniform draw among the phrases nearest to it.

Nearness is the cosine of the base encoder's text embeddings: a concept that fits the scene gives a caption
that keeps it. Phrases the guard does not allow for the caption are never candidates (what policy excludes has
no phrase to begin with).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch

from safeclip.encoders.embed import embed_texts
from safeclip.encoders.load import Encoder
from safeclip.guard import Guard
from safeclip.synthesis.keyed import row_generator
from safeclip.taxonomy import Phrase


@dataclass(frozen=True)
class ConceptDraw:
    """The phrase drawn for a row (None if there was nothing to draw from) and among how many."""

    phrase: Phrase | None
    eligible: int


def nearness(encoder: Encoder, captions: Sequence[str], phrases: Sequence[Phrase]) -> torch.Tensor:
    """Cosines [captions, phrases] of the encoder's text embeddings."""
    return embed_texts(encoder, captions) @ embed_texts(encoder, [phrase.text for phrase in phrases]).T


def draw_concepts(
    rows: Sequence[tuple[str, str]],
    phrases: Sequence[Phrase],
    similarity: torch.Tensor,
    guard: Guard,
    *,
    nearest: int,
    seed: int,
) -> list[ConceptDraw]:
    """One draw for each (id, safe caption); `similarity` [rows, phrases] holds the cosines.

    The draw is keyed by (seed, row id), so a row keeps its concept whatever other rows there are.
    """
    order = torch.argsort(similarity, dim=-1, descending=True, stable=True).numpy()
    return [
        _draw(row_id, [phrases[at] for at in order[row]], caption, guard, nearest, seed)
        for row, (row_id, caption) in enumerate(rows)
    ]


def _draw(
    row_id: str, by_nearness: Sequence[Phrase], caption: str, guard: Guard, nearest: int, seed: int
) -> ConceptDraw:
    eligible: list[Phrase] = []
    for phrase in by_nearness:
        if len(eligible) == nearest:
            break
        if guard.allows(caption, phrase.categories):
            eligible.append(phrase)
    if not eligible:
        return ConceptDraw(None, 0)
    at = row_generator(seed, row_id, "concept").integers(len(eligible))
    return ConceptDraw(eligible[int(at)], len(eligible))


def eligible_counts(draws: Sequence[ConceptDraw]) -> dict[str, int]:
    """Smallest, median and largest number of phrases that rows could draw from."""
    counts = np.sort([draw.eligible for draw in draws]) if draws else np.zeros(1)
    return {"min": int(counts[0]), "median": int(counts[len(counts) // 2]), "max": int(counts[-1])}
