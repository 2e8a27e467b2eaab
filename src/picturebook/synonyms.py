"""Other names for unsafe things ("gun", "handgun", "firearm"), which keep a caption's meaning."""

from __future__ import annotations

import re

import numpy as np

from picturebook.lexicon import Entry, find_entries, plural


def rename_unsafe(caption: str, generator: np.random.Generator) -> str:
    """Give every unsafe thing of the caption another of its names in the lexicon."""
    for entry in find_entries(caption):
        if entry.unsafe:
            caption = rename(caption, entry, generator)
    return caption


def rename(caption: str, entry: Entry, generator: np.random.Generator) -> str:
    """Replace the entry's word by another of its words: a singular by a singular, with the right article."""
    for word in sorted(entry.words, key=len, reverse=True):
        others = [other for other in entry.words if other != word]
        if not others:
            continue
        other = others[int(generator.integers(len(others)))]
        plural_other = other if other in entry.bare else plural(other)
        for old, new in ((word, other), (plural(word), plural_other)):
            match = re.search(rf"(?:\b(an?) )?\b{re.escape(old)}\b", caption)
            if match is None:
                continue
            # the article is written anew where there was one
            takes_article = match[1] is not None and new not in entry.bare
            article = ("an " if new[0] in "aeiou" else "a ") if takes_article else ""
            renamed = caption[: match.start()] + article + new + caption[match.end() :]
            if renamed != caption:
                return renamed
    return caption
