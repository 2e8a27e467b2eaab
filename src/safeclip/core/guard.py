"""The content guard: no text that names a minor together with anything sexual gets past it.

Both sides are word lists (guard_terms.yaml). A text is folded before it is compared: compatibility forms and
accents (NFKD), look-alike letters of other scripts, case, possessives; then listed words are followed
through it across spacing and punctuation put between their letters, digits and signs standing for letters or
for gaps. A word must begin and end at a boundary ("kidney" and "Essex" hold none). `i` and `l` are one
letter, since `1`, `!` and `|` stand for both.

The guard is deliberately the same for requests, answers, mutations and served queries, and it errs towards
refusing: the cost of a false alarm is one row.
"""

from __future__ import annotations

import hashlib
import re
import unicodedata
from collections.abc import Collection, Iterable, Mapping, Set
from functools import lru_cache
from pathlib import Path

from ruamel.yaml import YAML
from ruamel.yaml.error import YAMLError

from safeclip.core.errors import GuardError

TERMS_FILE = Path(__file__).with_name("guard_terms.yaml")
TERMS_SHA256 = "9f5214524c5ab511d8c4fd69d5beb2d2bc6ec052c1dcb78562bf170eb5a952ab"
_LISTS = ("minors", "sexual", "coded")
_MINOR, _SEXUAL = 1, 2

_LOOK_ALIKES = {  # Cyrillic, Greek, Armenian, Latin extensions and small capitals, in either case
    "a": "аАΑαɑəᴀ", "b": "ВвΒβЬьʙ", "c": "сСϲϹᴄ", "d": "ԁԀđĐᴅ", "e": "еЕΕεᴇєЄ", "f": "ғҒꜰϜ", "g": "ɡɢԌց",
    "h": "һҺНнΗħĦʜհ", "i": "іІΙιıɩɪӏӀ", "j": "јЈϳᴊ", "k": "кКΚκᴋ", "l": "łŁʟℓ", "m": "мМΜᴍ", "n": "Νηпոɴ",
    "o": "оОΟοσøØօՕᴏ", "p": "рРΡρᴘ", "q": "ԛԚ", "r": "гГʀ", "s": "ѕЅꙅꜱʂ", "t": "тТΤτŧŦᴛ", "u": "υսᴜц",
    "v": "νѵᴠ", "w": "ԝԜωшᴡ", "x": "хХΧχ×", "y": "уУΥүҮʏγ", "z": "ΖζᴢʐƵƶ",
}  # fmt: skip
_HOMOGLYPHS = {ord(sign): letter for letter, signs in _LOOK_ALIKES.items() for sign in signs} | {
    # letters in circles, squares and flags, which have no compatibility form
    start + offset: chr(ord("a") + offset)
    for start in (0x1F150, 0x1F170, 0x1F1E6)
    for offset in range(26)
}
_LEET = dict(zip("0123456789!|@$+€", "oizeasgtbgiiaste", strict=True))
_SIGNS = re.escape("".join(_LEET))
_PIECE = re.compile(f"[a-z]+|[{_SIGNS}]|[^a-z{_SIGNS}]+")
_POSSESSIVE = re.compile(r"['’`´]s\b")
_WORD = re.compile("[a-z]+")
_STRETCHED = re.compile(r"(.)\1{2,}")
_NONE: Set[str] = frozenset()
_FRESH: Set[str] = frozenset([""])
_AGE = (
    r"(?:1[0-7]|[0-9]|one|two|three|four|five|six|seven|eight|nine|ten|eleven|twelve|thirteen|fourteen|fifteen"
    r"|sixteen|seventeen)"
)
_UNDER_AGE = re.compile(
    rf"\b{_AGE}[\W_]*(?:(?:years?|yrs?)[\W_]*olds?|y[\W_]*o|months?[\W_]*olds?)\b"
    rf"|\b(?:age[ds]?|turn(?:s|ed|ing))[\W_]+{_AGE}\b"
    r"|\bunder[\W_]*(?:18|eighteen)s?\b"
)


def fold(text: str) -> str:
    """Lower-case Latin letters where the text reads as such; digits and signs are kept."""
    if not text.isascii():
        text = unicodedata.normalize("NFKD", text).translate(_HOMOGLYPHS)
        text = "".join(c for c in text if c.isascii() or unicodedata.category(c) not in ("Mn", "Me", "Cf"))
    return _POSSESSIVE.sub("s", text.casefold())


def _readings(folded: str) -> Iterable[str]:
    """The text with `l` as `i`; with letters written three times or more also once and twice."""
    folded = folded.replace("l", "i")
    yield folded
    if _STRETCHED.search(folded):
        yield from (_STRETCHED.sub(kept, folded) for kept in (r"\1", r"\1\1"))


def _forms(term: str) -> set[str]:
    """The folded singular and plurals of one listed entry, its words joined."""
    word = "".join(_WORD.findall(fold(term)))
    plurals = {word + "s", word + "z", word + "es", word[:-1] + "ies" if word.endswith("y") else word}
    return {form.replace("l", "i") for form in {word} | plurals}


class Guard:
    """Refuses texts that name a minor together with anything sexual. Made by `load_guard`."""

    def __init__(self, minors: Iterable[str], sexual: Iterable[str], coded: Iterable[str] = ()) -> None:
        self._lists = (tuple(minors), tuple(sexual), tuple(coded))
        self._meaning: dict[str, int] = {}
        for terms, flag in ((self._lists[0], _MINOR), (self._lists[1], _SEXUAL)):
            for form in set().union(*map(_forms, terms)):
                self._meaning[form] = self._meaning.get(form, 0) | flag
        self._coded = frozenset(self._lists[2])
        self._begun = frozenset(form[:end] for form in self._meaning for end in range(1, len(form) + 1))

    def names_minor(self, text: str) -> bool:
        """Whether the text names a minor, by a listed word or by an age under 18."""
        folded = fold(text)
        return bool(self._listed(folded) & _MINOR or _UNDER_AGE.search(folded))

    def is_sexual(self, text: str) -> bool:
        """Whether the text holds a listed sexual word."""
        return bool(self._listed(fold(text)) & _SEXUAL)

    def trips(self, text: str, categories: Collection[str] = ()) -> bool:
        """Whether the text names a minor and is sexual, by its words or by the categories given for it."""
        folded = fold(text)
        meaning = self._listed(folded) | (_SEXUAL if "sexual" in categories else 0)
        if meaning == _SEXUAL and _UNDER_AGE.search(folded):
            meaning |= _MINOR
        return meaning == _MINOR | _SEXUAL

    def allows(self, caption: str, categories: Collection[str]) -> bool:
        """Whether a concept of these categories may be asked for this caption."""
        return not self.trips(caption, categories)

    def require(self, text: str, item_id: str, categories: Collection[str] = ()) -> None:
        """Raise `GuardError` if the text trips the guard; the message names the item, never the text."""
        if self.trips(text, categories):
            raise GuardError(f"{item_id}: refused by the content guard; remove the item")

    def with_placeholders(self, minors: Iterable[str] = (), sexual: Iterable[str] = ()) -> Guard:
        """A guard with made-up words added to its lists: the only way in which it is ever tested."""
        return Guard(self._lists[0] + tuple(minors), self._lists[1] + tuple(sexual), self._lists[2])

    def _listed(self, folded: str) -> int:
        """Flags of all listed words in the folded text."""
        meaning = 0
        for reading in _readings(folded):
            meaning |= self._scan(reading)
        return meaning

    def _scan(self, text: str) -> int:
        """Follow every listed word that may have begun; what is not a letter ends it or stands inside it.

        A digit or sign is tried both as the letter it stands for and as a gap.
        """
        found, begun, after_letters = 0, _NONE, False
        for piece in _PIECE.findall(text):
            if "a" <= piece[0] <= "z":
                if _digest(piece) in self._coded:
                    found |= _MINOR | _SEXUAL
                begun = self._continue({*begun, ""} if begun else _FRESH, piece)
                after_letters = True
                continue
            found |= self._flags(begun)
            if piece in _LEET:
                begun = begun | self._continue(begun if after_letters else {*begun, ""}, _LEET[piece])
            after_letters = False
        return found | self._flags(begun)

    def _continue(self, begun: Set[str], letters: str) -> Set[str]:
        return {start + letters for start in begun if start + letters in self._begun}

    def _flags(self, words: Set[str]) -> int:
        flags = 0
        for word in words:
            flags |= self._meaning.get(word, 0)
        return flags


@lru_cache(maxsize=50_000)
def _digest(word: str) -> str:
    return hashlib.sha256(word.encode()).hexdigest()


def load_guard(path: Path = TERMS_FILE, sha256: str = TERMS_SHA256) -> Guard:
    """The guard of the project; `GuardError` if its lists are missing, empty or not those pinned here."""
    try:
        content = path.read_bytes()
        lists = YAML(typ="safe", pure=True).load(content)
    except (OSError, YAMLError):
        raise GuardError(f"{path.name}: the guard's lists cannot be read; restore the file") from None
    _check_lists(path.name, lists)
    if hashlib.sha256(content).hexdigest() != sha256:
        raise GuardError(f"{path.name}: the guard's lists were changed; restore them, or pin the new digest")
    return Guard(*(lists[name] for name in _LISTS))


def _check_lists(name: str, lists: object) -> None:
    if not isinstance(lists, Mapping) or set(lists) != set(_LISTS):
        raise GuardError(
            f"{name}: must hold the lists {', '.join(_LISTS)} and nothing else; restore the file"
        )
    for key in _LISTS:
        terms = lists[key]
        if not isinstance(terms, list) or not all(isinstance(term, str) and term.strip() for term in terms):
            raise GuardError(f"{name}: `{key}` must be a list of words; restore the file")
        if not terms:
            raise GuardError(f"{name}: the list `{key}` is empty; restore the file")
        if key != "coded" and not all(_WORD.search(fold(term)) for term in terms):
            raise GuardError(f"{name}: `{key}` holds an entry without letters; restore the file")
