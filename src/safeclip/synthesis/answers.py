"""What becomes of a language model's answer: a caption, a rejected row with its reason, or nothing at all.

An answer that trips the content guard is destroyed: counted, never written, not even to a checkpoint. Any
other bad answer is quarantined (its reason is kept, its text is not). A changed caption without an unsafe
word in it is a row like any other: the label says what it is.
"""

from __future__ import annotations

import re
from dataclasses import dataclass

from safeclip.core.guard import Guard
from safeclip.synthesis.engines import SYSTEM, RewriteAnswer, RewriteRequest

DESTROYED = "destroyed"
_MAX_WORDS = 40
_EXPLICIT = re.compile(
    r"\b(behead|castrat|decapitat|disembowel|dismember|ejaculat|entrail|erection|genital|gore\b|gory|guts\b|"
    r"impal|innards|intercourse|lynch|masturbat|mutilat|orgasm|orgy|penis|rape|raping|rapist|sodom|tortur|vagina)"
)  # beyond a newspaper's headline
_LABEL = re.compile(r"^(?:[-*•>]+|\(?\d{1,2}[.)]|(?:[a-z]+ )?(?:caption|answer|rewrite|output)\s*:)\s*", re.I)
_QUOTES = " \t\"'“”‘’«»`*_"
_NEXT_SENTENCE = re.compile(r"(?<=[a-z][.!?])[\"']?\s+(?=\S)")
_SEPARATORS = re.compile(r"\s(?:\||/|;|=>|->|→)\s|\s\d[.)]\s")
_CHAT = re.compile(r"<\|?\w+\|?>|^(?:system|user|assistant)\b", re.I)
_REFUSAL = re.compile(r"\b(?:i'm sorry|i am sorry|i can(?:no|')t|i cannot|as an ai|language model)\b", re.I)
_WORD = re.compile(r"[a-z]+(?:['’-][a-z]+)*", re.I)
_SMALL_ENGLISH = "a an the of and with in on at near by to is are his her their for from over under while as"
_SMALL_FOREIGN = (  # of Spanish, French, Italian, Portuguese and German, none of them English
    "un una el la los las del con de por le les des une avec dans sur il elle di della uno com uma ein eine "
    "einer einem der das und mit auf im ist em para está è e y et"
)
_ENGLISH, _FOREIGN = frozenset(_SMALL_ENGLISH.split()), frozenset(_SMALL_FOREIGN.split())
_DANGLING = re.compile(r"\s+(?:a|an|the|of|with|and|or|in|on|at|to|by|near|for|from|his|her|their)$", re.I)


@dataclass(frozen=True)
class RewriteOutcome:
    """`text` is the accepted caption, or None with the reason; `destroyed` marks what the guard refused."""

    id: str
    text: str | None
    reason: str = ""

    @property
    def destroyed(self) -> bool:
        return self.reason == DESTROYED


@dataclass(frozen=True)
class AnswerCheck:
    """Cleans and checks answers; carries the guard into the process that holds the model."""

    guard: Guard

    def __call__(self, request: RewriteRequest, answer: RewriteAnswer) -> RewriteOutcome:
        if self.guard.trips(answer.text, request.categories):
            return RewriteOutcome(request.id, None, DESTROYED)
        if answer.fault:
            return RewriteOutcome(request.id, None, f"no answer: {answer.fault}")
        text = clean(answer.text, complete=answer.complete)
        reason = fault(text, request.caption, request.concept)
        return RewriteOutcome(request.id, None, reason) if reason else RewriteOutcome(request.id, text)


def clean(answer: str, *, complete: bool = True) -> str:
    """The caption in an answer: its first line and sentence, without labels, quotes and loose ends.

    `complete` is False if the length limit cut the answer: then a last word that asks for another is dropped.
    """
    lines = [line.strip() for line in answer.strip().splitlines() if line.strip(_QUOTES)]
    text = " ".join(lines[0].split()) if lines else ""
    text = _LABEL.sub("", text.strip(_QUOTES)).strip(_QUOTES)
    text = _NEXT_SENTENCE.split(text)[0].strip(_QUOTES).rstrip(",;:-– ")
    while not complete and _DANGLING.search(text):
        text = _DANGLING.sub("", text)
    return text


def fault(text: str, caption: str, concept: str) -> str:
    """Why a cleaned answer cannot stand as a caption; empty if it can."""
    words = [word.lower() for word in _WORD.findall(text)]
    checks = {
        "empty answer": not words,
        "prompt echo": _is_echo(text, caption, concept),
        "refusal": bool(_REFUSAL.search(text.replace("’", "'"))),
        "unchanged caption": words == [word.lower() for word in _WORD.findall(caption)],
        "not English text": not _reads_as_english(text, words),
        "several captions": bool(_SEPARATORS.search(text)),
        "too short": len(words) < 3,
        "too long": len(words) > _MAX_WORDS,
        "repetition": _repeats(words),
        "explicit wording": bool(_EXPLICIT.search(text.lower())),
    }
    return next((reason for reason, holds in checks.items() if holds), "")


def _is_echo(text: str, caption: str, concept: str) -> bool:
    lowered = text.lower()
    marks = (SYSTEM.lower(), f"{concept}:".lower(), f"{concept}: {caption}".lower())
    return bool(_CHAT.search(text)) or any(mark in lowered for mark in marks)


def _reads_as_english(text: str, words: list[str]) -> bool:
    """Mostly Latin letters and spaces, words with a vowel and a length one meets, no other language's."""
    foreign = sum(word in _FOREIGN for word in words)
    if foreign >= 2 and foreign > sum(word in _ENGLISH for word in words):
        return False
    plain = sum(c.isascii() and (c.isalpha() or c in " ,.'-") for c in text)
    wordlike = sum(bool(re.search("[aeiouy]", word)) and len(word) <= 18 for word in words)
    return plain >= 0.9 * len(text) and wordlike >= 0.8 * len(words)


def _repeats(words: list[str]) -> bool:
    """The same word three times running, or fewer than half of many words distinct."""
    runs = any(a == b == c for a, b, c in zip(words, words[1:], words[2:], strict=False))
    return runs or (len(words) >= 8 and len(set(words)) < len(words) / 2)
