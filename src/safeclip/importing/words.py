"""Caption text as people deliver it: byte order marks, old encodings, control signs, whole paragraphs."""

from __future__ import annotations

import codecs
import re
import unicodedata

from safeclip.importing.items import ItemFault

MAX_CHARACTERS = 1000  # of a caption in captions.jsonl
_SENTENCE_END = re.compile(r"(?<=[.!?…。！？])\s+")
_MARKS = {
    codecs.BOM_UTF8: "utf-8-sig",
    codecs.BOM_UTF32_LE: "utf-32",
    codecs.BOM_UTF32_BE: "utf-32",
    codecs.BOM_UTF16_LE: "utf-16",
    codecs.BOM_UTF16_BE: "utf-16",
}


def decode(data: bytes) -> tuple[str, str | None]:
    """Text and, if it is not plain UTF-8, a note on how it was read.

    A byte order mark decides; without one UTF-8, else Windows-1252 (which holds the letters of latin-1).
    """
    for mark, encoding in _MARKS.items():
        if data.startswith(mark):
            try:
                return data.decode(encoding), None
            except UnicodeDecodeError:
                break
    try:
        return data.decode("utf-8"), None
    except UnicodeDecodeError:
        return data.decode("cp1252", errors="replace"), "not UTF-8, read as Windows-1252"


def clean(text: str) -> str:
    """Composed letters, single spaces, no control or direction signs, nothing around it."""
    composed = unicodedata.normalize("NFC", text)
    spaced = "".join(" " if sign.isspace() else sign for sign in composed)
    kept = "".join(sign for sign in spaced if unicodedata.category(sign) not in ("Cc", "Cf", "Cs", "Co"))
    return " ".join(kept.split())


def fit_caption(text: str, max_words: int) -> tuple[str, str | None]:
    """A caption of at most `max_words` words, and a note if only its first sentences are left.

    `ItemFault` if nothing usable is left; it never holds the text.
    """
    caption = clean(text)
    if not any(sign.isalpha() for sign in caption):
        raise ItemFault("its caption has no words")
    if "\N{REPLACEMENT CHARACTER}" in caption:
        raise ItemFault("its caption cannot be decoded; save the file as UTF-8")
    if _fits(caption, max_words):
        return caption, None
    shorter = _first_sentences(caption, max_words)
    if not shorter:
        words = len(caption.split())
        raise ItemFault(f"its caption is too long ({words} words without a full stop, at most {max_words})")
    return shorter, f"caption shortened to its first {len(shorter.split())} words (whole sentences)"


def _first_sentences(caption: str, max_words: int) -> str:
    kept = ""
    for sentence in _SENTENCE_END.split(caption):
        longer = f"{kept} {sentence}".strip()
        if not _fits(longer, max_words):
            break
        kept = longer
    return kept


def _fits(caption: str, max_words: int) -> bool:
    return len(caption.split()) <= max_words and len(caption) <= MAX_CHARACTERS
