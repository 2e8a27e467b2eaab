"""Captions and pictures that the base encoder is pretrained on: safe and unsafe alike, both styles alike.

Beside the grammar's own sentences there are captions like a rewriter's (a phrase of the taxonomy put in place
of a thing or added), single things, and captions with words the picture book does not know, so that the text
tower learns to pass over them. A batch depends on (seed, step) alone, whoever draws it and whenever.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TypeVar

import numpy as np

from picturebook.drawing import paint
from picturebook.grammar import safe_scene, single_scene, unsafe_scene
from picturebook.lexicon import LEXICON, Entry, find_entries, plural
from picturebook.templates import ADJECTIVES

T = TypeVar("T")
STYLES = ("photo", "generated")
SINGLE_SHARE, SINGLE_STEPS = 0.08, 200  # share of single things at last, and steps until then
SCENE_SHARES = (0.43, 0.27, 0.30)  # safe, unsafe, rewritten
_CONNECTORS = (" with ", " and ", " next to ", " near ", " holding ", " behind ", ", ")
_ADJECTIVE = "|".join(sorted({word for words in ADJECTIVES.values() for word in words}))
_UNSAFE_WORDS = tuple(word for entry in LEXICON if entry.unsafe for word in entry.words)


@dataclass(frozen=True)
class Scenery:
    """What captions are made of: the taxonomy's phrases, words without a glyph, glyph sets kept unseen."""

    phrases: tuple[str, ...]
    fillers: tuple[str, ...]
    held_out: frozenset[frozenset[str]]


@dataclass(frozen=True)
class Batch:
    """captions: B strings; pixels: uint8 [B, H, W, 3]."""

    captions: list[str]
    pixels: np.ndarray


def glyph_set(caption: str) -> frozenset[str]:
    """The names of what a caption shows; two captions of one set are near-duplicates."""
    return frozenset(entry.name for entry in find_entries(caption))


def draw_batch(scenery: Scenery, seed: int, step: int, size: int, image_size: int) -> Batch:
    """The batch of one training step: `size` scenes, none of a held-out glyph set and no set twice."""
    captions = write_captions(scenery, seed, step, size)
    rng = np.random.default_rng((seed, step, 1))
    drawn = [
        paint(caption, STYLES[int(rng.integers(2))], int(rng.integers(2**31)), image_size)[0]
        for caption in captions
    ]
    return Batch(captions, np.stack(drawn))


def write_captions(scenery: Scenery, seed: int, step: int, size: int) -> list[str]:
    """The captions of one step's batch."""
    rng = np.random.default_rng((seed, step, 0))
    captions: dict[frozenset[str], str] = {}
    while len(captions) < size:
        caption = _disturb(_caption(rng, scenery, step), rng, scenery)
        key = glyph_set(caption)
        if key and key not in scenery.held_out:
            captions.setdefault(key, caption)
    return list(captions.values())


def _caption(rng: np.random.Generator, scenery: Scenery, step: int) -> str:
    """Single things are frequent at first: names are learnt from them sooner than from whole scenes."""
    single = max(SINGLE_SHARE, 0.5 * (1 - step / SINGLE_STEPS))
    if rng.random() < single:
        return single_scene(rng).caption
    makers: tuple[Callable[[], str], ...] = (
        lambda: safe_scene(rng).caption,
        lambda: unsafe_scene(rng).caption,
        lambda: rewritten(safe_scene(rng).caption, rng, scenery.phrases),
    )
    return makers[int(rng.choice(len(makers), p=SCENE_SHARES))]()


def rewritten(caption: str, rng: np.random.Generator, phrases: Sequence[str]) -> str:
    """A caption with an unsafe phrase in place of one of its things, or added to it."""
    phrase = _pick(phrases, rng) if rng.random() < 0.7 else _pick(_UNSAFE_WORDS, rng)
    thing = _pick(find_entries(caption), rng)
    if rng.random() < 0.6:
        return _noun_phrase(thing).sub(lambda _: phrase, caption, count=1)
    return caption + _pick(_CONNECTORS, rng) + phrase


def _noun_phrase(entry: Entry) -> re.Pattern[str]:
    forms = sorted({f for word in entry.words for f in (word, plural(word))}, key=len, reverse=True)
    words = "|".join(map(re.escape, forms))
    return re.compile(rf"\b(?:(?:an?|the|two|three) )?(?:(?:{_ADJECTIVE}) )?(?:{words})\b")


def _disturb(caption: str, rng: np.random.Generator, scenery: Scenery) -> str:
    """Now and then: other capitals, a full stop, a word that has no glyph."""
    words = caption.split(" ")
    if rng.random() < 0.2:
        for _ in range(int(rng.integers(1, 4))):
            words.insert(int(rng.integers(len(words) + 1)), _pick(scenery.fillers, rng))
    text = " ".join(words)
    if glyph_set(text) != glyph_set(caption):  # the new word split or made a name: leave it out
        text = caption
    return text + ("." if rng.random() < 0.2 else "")


def _pick(options: Sequence[T], rng: np.random.Generator) -> T:
    return options[int(rng.integers(len(options)))]
