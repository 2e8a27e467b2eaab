"""How alike two captions are, word by word."""

from __future__ import annotations

from difflib import SequenceMatcher


def ordered_overlap(one: str, other: str) -> float:
    """Return the share of words that two texts have in the same order, 2M/T (Ratcliff and Obershelp).

    M counts the words in common blocks, T the words of both; 1 for the same words, 0 for none shared. Case
    does not matter.
    """
    return SequenceMatcher(None, one.lower().split(), other.lower().split(), autojunk=False).ratio()
