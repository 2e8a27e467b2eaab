"""Seeded captions for the picture book: every drawable word of a caption is in the lexicon.

An unsafe caption is a safe one after the kind of edit a rewriter makes: one of its things replaced by an
unsafe thing, or an unsafe thing added. Randomness comes from the generator passed in and nowhere else.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TypeVar

import numpy as np

from picturebook.entries import SAFE
from picturebook.lexicon import BY_NAME, CATEGORIES, LEXICON, Entry, plural
from picturebook.templates import ADDED_UNSAFE, ADJECTIVES, PHRASES, SAFE_TEMPLATES, SINGLE_TEMPLATES
from safeclip.core.errors import DataError

T = TypeVar("T")
_SLOT = re.compile(r"\{(\w+)(\+?)\}")
_CHOICE = re.compile(r"\(([^()]*)\)")
_SAFE_KINDS = {kind: [e for e in LEXICON if e.kind == kind and not e.unsafe] for kind in SAFE}
_UNSAFE = {name: [e for e in LEXICON if name in e.categories] for name in CATEGORIES}
_UNSAFE_ROLES = {
    "person": ("person", "animal"),
    "animal": ("animal", "person"),
    "vehicle": ("person",),
    "place": ("place",),
}
_OBJECT_KINDS = ("thing", "scene", "animal")
_NAME_SHARE, _ADJECTIVE_SHARE, _COUNT_SHARE, _ADD_SHARE, _SECOND_SHARE = 0.5, 0.3, 0.15, 0.4, 0.15


@dataclass(frozen=True)
class Scene:
    """A caption and the names of the entries it mentions, in order of mention."""

    caption: str
    names: tuple[str, ...]

    @property
    def unsafe(self) -> bool:
        """True if one of the names is an unsafe entry."""
        return any(BY_NAME[name].unsafe for name in self.names)


def _pick(rng: np.random.Generator, options: Sequence[T]) -> T:
    return options[int(rng.integers(len(options)))]


def _expand(template: str, rng: np.random.Generator) -> str:
    for name, phrase in PHRASES.items():
        template = template.replace(f"[{name}]", phrase)
    return _CHOICE.sub(lambda match: _pick(rng, match[1].split("|")), template)


def _word(entry: Entry, rng: np.random.Generator) -> str:
    return entry.name if rng.random() < _NAME_SHARE else _pick(rng, entry.words)


def _with_article(phrase: str) -> str:
    return f"an {phrase}" if phrase[0] in "aeiou" else f"a {phrase}"


def _noun_phrase(entry: Entry, rng: np.random.Generator, countable: bool = False) -> str:
    word = _word(entry, rng)
    adjectives = () if entry.unsafe else ADJECTIVES.get(entry.kind, ())
    adjective = f"{_pick(rng, adjectives)} " if adjectives and rng.random() < _ADJECTIVE_SHARE else ""
    if word in entry.bare:
        return adjective + word
    if countable and rng.random() < _COUNT_SHARE:
        return f"{_pick(rng, ('two', 'three'))} {adjective}{plural(word)}"
    if entry.kind == "sky" or (entry.kind == "place" and rng.random() < 0.8):
        return f"the {adjective}{word}"
    return _with_article(adjective + word)


def _choose_entries(template: str, rng: np.random.Generator) -> list[Entry]:
    chosen: list[Entry] = []
    for kind, _ in _SLOT.findall(template):
        options = _SAFE_KINDS[kind]
        entry = _pick(rng, options)
        while entry in chosen:
            entry = _pick(rng, options)
        chosen.append(entry)
    return chosen


def _fill(template: str, entries: list[Entry], rng: np.random.Generator) -> Scene:
    waiting = iter(entries)
    text = _SLOT.sub(lambda match: _noun_phrase(next(waiting), rng, bool(match[2])), template)
    return Scene(" ".join(text.split()), tuple(entry.name for entry in entries))


def safe_scene(rng: np.random.Generator) -> Scene:
    """A caption of two to four safe things, subjects and places."""
    template = _expand(_pick(rng, SAFE_TEMPLATES), rng)
    return _fill(template, _choose_entries(template, rng), rng)


def _unsafe_entry(rng: np.random.Generator, kinds: tuple[str, ...]) -> Entry | None:
    options = [entry for entry in _UNSAFE[_pick(rng, CATEGORIES)] if entry.kind in kinds]
    return _pick(rng, options) if options else None


def _replace(entries: list[Entry], rng: np.random.Generator) -> bool:
    """Put an unsafe entry in one slot that its kind can stand in; False if the draw found none that fits."""
    slot = int(rng.integers(len(entries)))
    subject = slot == 0 or entries[slot].kind == "place"
    kinds = _UNSAFE_ROLES.get(entries[slot].kind, _OBJECT_KINDS) if subject else _OBJECT_KINDS
    entry = _unsafe_entry(rng, kinds)
    if entry is None or entry in entries or (subject and rng.random() < 0.5):
        return False
    entries[slot] = entry
    return True


def _add(template: str, entries: list[Entry], rng: np.random.Generator) -> str:
    entry = _unsafe_entry(rng, _OBJECT_KINDS)
    while entry is None or entry in entries:
        entry = _unsafe_entry(rng, _OBJECT_KINDS)
    entries.append(entry)
    return template + _pick(rng, ADDED_UNSAFE)


def unsafe_scene(rng: np.random.Generator) -> Scene:
    """A safe caption rewritten: one unsafe entry (sometimes two) replaces or joins what it shows."""
    template = _expand(_pick(rng, SAFE_TEMPLATES), rng)
    entries = _choose_entries(template, rng)
    rounds = 2 if rng.random() < _SECOND_SHARE else 1
    for _ in range(rounds):
        if rng.random() < _ADD_SHARE and len(entries) < 4:
            template = _add(template, entries, rng)
            continue
        while not _replace(entries, rng):
            pass
    return _fill(template, entries, rng)


def single_scene(rng: np.random.Generator, name: str | None = None) -> Scene:
    """A short caption of one entry, such as "a photo of a dog"; any entry if `name` is None.

    `DataError` if the lexicon has no entry of that name.
    """
    if name is not None and name not in BY_NAME:
        raise DataError(f"{name!r} is not in the picture book's lexicon; use a name from LEXICON")
    entry = BY_NAME[name] if name is not None else _pick(rng, LEXICON)
    word = _word(entry, rng)
    one = word if word in entry.bare else f"the {word}" if entry.kind == "sky" else _with_article(word)
    return Scene(_pick(rng, SINGLE_TEMPLATES).format(one=one, bare=word), (entry.name,))
