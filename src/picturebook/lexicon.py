"""The words the picture book understands: entries, their plurals, and how a caption is read."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass

from picturebook.entries import SAFE, UNSAFE

CATEGORIES = ("hate", "harassment", "violence", "self-harm", "sexual", "shocking", "illegal")
_COUNTS = {"two": 2, "three": 3}
_TOKEN = re.compile(r"[a-z0-9]+")
_IRREGULAR = {"man": "men", "woman": "women", "mouse": "mice", "sheep": "sheep", "fish": "fish"}


@dataclass(frozen=True)
class Entry:
    """One drawable glyph: `glyph` is an OpenMoji hexcode, `words` what captions may call it (name first).

    `bare` holds the words that take no article; `categories` is empty for a safe entry.
    """

    name: str
    glyph: str
    words: tuple[str, ...]
    kind: str
    categories: tuple[str, ...] = ()
    bare: frozenset[str] = frozenset()

    @property
    def unsafe(self) -> bool:
        """True if drawing this glyph makes a picture unsafe."""
        return bool(self.categories)


@dataclass(frozen=True)
class Mention:
    """An entry named in a caption, and how many of it: 1, or 2 or 3 after "two" or "three"."""

    entry: Entry
    count: int = 1


def plural(phrase: str) -> str:
    """The English plural of a noun phrase, formed on its last word ("loaf of bread" on its first)."""
    head, of, rest = phrase.partition(" of ")
    *before, last = head.split(" ")
    return " ".join([*before, _plural_word(last)]) + of + rest


def _plural_word(word: str) -> str:
    for singular, form in _IRREGULAR.items():
        if word.endswith(singular):
            return word.removesuffix(singular) + form
    if re.search(r"[^aeiou]y$", word):
        return word[:-1] + "ies"
    if re.search(r"(kni|lea|thie|loa)fe?$", word):
        return re.sub(r"fe?$", "ves", word)
    return word + ("es" if re.search(r"(s|x|ch|sh|mato)$", word) else "s")


def _parse(line: str, kind: str) -> Entry:
    words, glyph, *categories = (field.strip() for field in line.split("|"))
    marked = [word.strip() for word in words.split(";")]
    plain = tuple(word.rstrip("*") for word in marked)
    bare = frozenset(word.rstrip("*") for word in marked if word.endswith("*"))
    return Entry(plain[0], glyph, plain, kind, tuple(" ".join(categories).split()), bare)


def _entries(table: dict[str, str]) -> Iterator[Entry]:
    for kind, lines in table.items():
        yield from (_parse(line, kind) for line in lines.splitlines() if line.strip())


LEXICON: tuple[Entry, ...] = (*_entries(SAFE), *_entries(UNSAFE))
"""Every entry, safe ones first."""

BY_NAME: dict[str, Entry] = {entry.name: entry for entry in LEXICON}


def _tokens(text: str) -> tuple[str, ...]:
    return tuple(_TOKEN.findall(text.lower().replace("’", "'").replace("'s", "")))


def _index() -> dict[tuple[str, ...], Entry]:
    index: dict[tuple[str, ...], Entry] = {}
    for entry in LEXICON:
        for word in entry.words:
            for form in (word,) if word in entry.bare else (word, plural(word)):
                index.setdefault(_tokens(form), entry)
    return index


_INDEX = _index()
_LONGEST = max(map(len, _INDEX))


def find_mentions(caption: str) -> list[Mention]:
    """The entries a caption names, in order of mention, longest phrase first, each entry once."""
    tokens, at = _tokens(caption), 0
    found: dict[str, Mention] = {}
    while at < len(tokens):
        for length in range(_LONGEST, 0, -1):
            entry = _INDEX.get(tokens[at : at + length])
            if entry is not None:
                found.setdefault(entry.name, Mention(entry, _count(tokens, at)))
                break
        at += length
    return list(found.values())


def _count(tokens: tuple[str, ...], at: int) -> int:
    """How many: the number word before the noun, an adjective may stand between them."""
    for token in reversed(tokens[max(0, at - 2) : at]):
        if token in _COUNTS:
            return _COUNTS[token]
    return 1


def find_entries(caption: str) -> list[Entry]:
    """The entries a caption names, in order of mention; case and plurals do not matter; [] if none."""
    return [mention.entry for mention in find_mentions(caption)]
