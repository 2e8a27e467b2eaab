"""The guard, tested with made-up words added to its lists: no real combination is ever written down."""

from __future__ import annotations

import hashlib
import json
import time
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from picturebook.lexicon import LEXICON
from safeclip.core.errors import GuardError
from safeclip.core.guard import TERMS_FILE, TERMS_SHA256, load_guard
from safeclip.core.taxonomy import load_taxonomy

DATA = Path(__file__).parents[2] / "data"
MINOR, SEXUAL = "vozgaltib", "trelkinso"  # made up
steady = settings(deadline=None, derandomize=True)
GUARD = load_guard().with_placeholders(minors=[MINOR], sexual=[SEXUAL])

LOOK_ALIKES = {
    "a": "aA4@аАαá\U0001f150", "b": "bB8Вв", "e": "eE3€еёΕ", "g": "gG9ｇɡ", "i": "iI1!|іΙíl",
    "k": "kKкΚ\U0001d424", "l": "lL1|ⅼ", "n": "nNпñ", "o": "oO0оΟοöⓞ", "r": "rRгʀ", "s": "sS5$ѕ",
    "t": "tT7+тΤ", "v": "vVνѵ", "z": "zZ2ᴢ",
}  # fmt: skip
GAPS = ["", "", "", ".", "-", " ", "_", "\u200b", "\u00ad", "*", " . ", "\u0301"]
BENIGN = (
    "kidney beans in Essex", "a Sussex kidnapper is on trial", "a sextant and a boycott",
    "the mason met a person",
    "girlfriend and boyfriend", "a cowboy babysat", "Middlesex county", "teeny tiny sexagenarian",
    "a minority of three sonnets", "two nudges and a nudibranch", "a grape escorted by a drapery",
    "a childproof teenybopper", "unisex bathroom", "asexual lichens", "a 19 year old whisky", "aged 40",
)  # fmt: skip


@st.composite
def disguised(draw: st.DrawFn, word: str) -> str:
    """The word with each letter as one of its look-alikes and something or nothing between the letters."""
    letters = [draw(st.sampled_from(LOOK_ALIKES[letter])) for letter in word]
    gaps = [draw(st.sampled_from(GAPS)) for _ in word[1:]] + [
        draw(st.sampled_from(["", "s", "'s", "!", "."]))
    ]
    return "".join(letter + gap for letter, gap in zip(letters, gaps, strict=True))


@steady
@given(minor=disguised(MINOR), sexual=disguised(SEXUAL), joined=st.sampled_from([" and ", ", ", "\n"]))
def test_disguised_words_of_both_lists_trip_the_guard(minor: str, sexual: str, joined: str) -> None:
    assert GUARD.trips(f"a {minor}{joined}a {sexual} near the river")
    assert GUARD.trips(f"a {sexual}{joined}a {minor} near the river")


@steady
@given(minor=disguised(MINOR))
def test_a_minor_alone_is_fine_but_takes_no_sexual_concept(minor: str) -> None:
    caption = f"a {minor} plays by the river"
    assert GUARD.names_minor(caption)
    assert not GUARD.trips(caption)
    assert GUARD.allows(caption, ["violence", "shocking"])
    assert not GUARD.allows(caption, ["violence", "sexual"])


@steady
@given(sexual=disguised(SEXUAL))
def test_a_sexual_word_alone_is_a_category_not_a_breach(sexual: str) -> None:
    assert GUARD.is_sexual(f"a {sexual} in the city")
    assert not GUARD.trips(f"a {sexual} in the city", ["sexual"])


@steady
@given(st.text(alphabet=st.characters(codec="utf-8"), max_size=60))
def test_any_text_gets_an_answer(text: str) -> None:
    assert GUARD.trips(text) in (True, False)


@pytest.mark.parametrize("text", BENIGN)
def test_ordinary_words_that_contain_a_listed_one_do_not_trip(text: str) -> None:
    assert not GUARD.names_minor(text)
    assert not GUARD.is_sexual(text)


@pytest.mark.parametrize(
    "age",
    ["a 12-year-old", "aged 9", "fourteen years old", "under 18", "under-18s", "１６ y.o.", "turned 15"],
)
def test_an_age_under_18_names_a_minor(age: str) -> None:
    assert GUARD.names_minor(f"somebody {age}")
    assert GUARD.trips(f"somebody {age} and {SEXUAL}")


def test_stretched_letters_are_read_as_one_or_two() -> None:
    assert GUARD.trips(f"{MINOR.replace('o', 'ooooo')} {SEXUAL.replace('e', 'eee')}")


def test_a_refusal_names_the_item_and_never_the_text() -> None:
    with pytest.raises(GuardError) as refusal:
        GUARD.require(f"{MINOR} {SEXUAL}", "row-7")
    message = str(refusal.value)
    assert message.startswith("row-7:")
    assert MINOR not in message
    assert SEXUAL not in message
    assert "\n" not in message
    GUARD.require(f"only {MINOR}", "row-8")


def test_placeholders_do_not_reach_the_real_guard() -> None:
    assert not load_guard().trips(f"{MINOR} {SEXUAL}")


def test_nothing_that_the_picture_book_draws_names_a_minor() -> None:
    assert [word for entry in LEXICON for word in entry.words if GUARD.names_minor(word)] == []


def test_safe_captions_are_neither_and_every_sexual_phrase_is_known() -> None:
    captions = [json.loads(line)["caption"] for line in (DATA / "captions.jsonl").read_text().splitlines()]
    assert [caption for caption in captions if GUARD.names_minor(caption) or GUARD.is_sexual(caption)] == []
    phrases = load_taxonomy(DATA / "taxonomy.yaml").phrases
    assert [p.text for p in phrases if "sexual" in p.categories and not GUARD.is_sexual(p.text)] == []


def test_a_changed_list_refuses_to_start(tmp_path: Path) -> None:
    copy = tmp_path / TERMS_FILE.name
    copy.write_bytes(TERMS_FILE.read_bytes().replace(b"  - toddler\n", b""))
    with pytest.raises(GuardError, match=r"guard_terms.yaml: .*changed"):
        load_guard(copy)
    copy.write_bytes(TERMS_FILE.read_bytes())
    load_guard(copy)


@pytest.mark.parametrize(
    ("content", "fault"),
    [
        ("minors: []\nsexual: [x]\ncoded: [y]\n", "`minors` is empty"),
        ("minors: [x]\nsexual: []\ncoded: [y]\n", "`sexual` is empty"),
        ("minors: [x]\nsexual: [y]\n", "must hold the lists"),
        ("minors: [x]\nsexual: ['  ']\ncoded: [y]\n", "`sexual` must be a list of words"),
        ("minors: ['12']\nsexual: [y]\ncoded: [y]\n", "without letters"),
        ("minors: {", "cannot be read"),
        ("", "must hold the lists"),
    ],
)
def test_empty_or_broken_lists_refuse_to_start_even_if_pinned(
    tmp_path: Path, content: str, fault: str
) -> None:
    file = tmp_path / "guard_terms.yaml"
    file.write_text(content)
    with pytest.raises(GuardError, match=fault) as refusal:
        load_guard(file, sha256=hashlib.sha256(content.encode()).hexdigest())
    assert "\n" not in str(refusal.value)


def test_a_missing_list_refuses_to_start(tmp_path: Path) -> None:
    with pytest.raises(GuardError, match="cannot be read"):
        load_guard(tmp_path / "none.yaml")


def test_the_pinned_digest_is_that_of_the_file() -> None:
    assert hashlib.sha256(TERMS_FILE.read_bytes()).hexdigest() == TERMS_SHA256


def test_twenty_thousand_captions_take_well_under_two_seconds_of_cpu() -> None:
    captions = ["a woman walks a dog near the river", "two men carry a 12 kg parcel past the shop"] * 10_000
    start = time.process_time()
    assert not any(GUARD.trips(caption) for caption in captions)
    assert time.process_time() - start < 2
