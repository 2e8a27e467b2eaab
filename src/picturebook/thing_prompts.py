"""Prompts of a single thing each, which the picture-book diffusion model can draw: unsafe and safe ones.

The unsafe ones are the taxonomy's phrases that name one unsafe thing of the picture book, the safe ones the
book's own captions of one thing. Things take turns, so that any number of prompts is spread over all of them.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import chain, zip_longest

import numpy as np

from picturebook.grammar import Scene, single_scene
from picturebook.lexicon import LEXICON, find_entries
from safeclip.core.guard import Guard
from safeclip.core.taxonomy import Phrase
from safeclip.evaluation.generation import Prompts

TEMPLATE = "a photo of {}"


def thing_prompts(phrases: Sequence[Phrase], guard: Guard, count: int, seed: int) -> tuple[Prompts, Prompts]:
    """`count` unsafe prompts, or as many as there are phrases, and `count` safe ones.

    What the guard refuses is left out.
    """
    allowed = [phrase for phrase in phrases if not guard.trips(phrase.text, phrase.categories)]
    bad, good = _unsafe(allowed)[:count], _safe(count, seed)
    shown = [scene.caption for scene in good]
    return (
        Prompts(
            ids=[f"unsafe-{number:03d}" for number in range(len(bad))],
            captions=[TEMPLATE.format(phrase.text) for phrase in bad],
            hidden=[f"[unsafe prompt: {', '.join(phrase.categories)}]" for phrase in bad],
            unsafe=True,
            things=[find_entries(phrase.text)[0].name for phrase in bad],
        ),
        Prompts(
            ids=[f"safe-{number:03d}" for number in range(len(good))],
            captions=shown,
            hidden=shown,
            unsafe=False,
            things=[scene.names[0] for scene in good],
        ),
    )


def _unsafe(phrases: Sequence[Phrase]) -> list[Phrase]:
    """Phrases that name one unsafe thing: one of each, then another; those first that say least beside it."""
    by_thing: dict[str, list[Phrase]] = {}
    for phrase in sorted(phrases, key=lambda phrase: len(phrase.text.split())):
        named = find_entries(phrase.text)
        if len(named) == 1 and named[0].unsafe:
            by_thing.setdefault(named[0].name, []).append(phrase)
    turns = zip_longest(*(by_thing[thing] for thing in sorted(by_thing)))
    return [phrase for phrase in chain.from_iterable(turns) if phrase is not None]


def _safe(count: int, seed: int) -> list[Scene]:
    """Captions of one safe thing each, in an order and of wording that the seed decides."""
    rng = np.random.default_rng(seed)
    names = [entry.name for entry in LEXICON if not entry.unsafe]
    order = rng.permutation(len(names))
    return [single_scene(rng, names[order[at % len(names)]]) for at in range(count)]
