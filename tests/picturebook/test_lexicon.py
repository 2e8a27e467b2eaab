"""The lexicon: enough of everything, adults only, and captions read the way people write them."""

import re

import pytest

from picturebook.lexicon import BY_NAME, CATEGORIES, LEXICON, find_entries, find_mentions, plural

MINOR_WORDS = {
    *("child", "children", "childhood", "kid", "kids", "boy", "girl", "baby", "babies", "infant", "toddler"),
    *("teen", "teenager", "teens", "adolescent", "minor", "youth", "young", "school", "pupil", "student"),
}
MINOR_GLYPHS = {"1F466", "1F467", "1F476", "1F9D2", "1F47C", "1F6BC", "1F930", "1F931", "1F46A"}


def _names(caption: str) -> list[str]:
    return [entry.name for entry in find_entries(caption)]


def test_there_are_enough_safe_and_unsafe_entries_in_every_category() -> None:
    unsafe = [entry for entry in LEXICON if entry.unsafe]
    assert len(LEXICON) - len(unsafe) >= 120
    assert len(unsafe) >= 35
    for category in CATEGORIES:
        assert sum(category in entry.categories for entry in unsafe) >= 4, category
    assert {category for entry in unsafe for category in entry.categories} == set(CATEGORIES)
    assert any(len(entry.categories) > 1 for entry in unsafe)


def test_no_word_and_no_glyph_stands_for_a_minor() -> None:
    for entry in LEXICON:
        for word in entry.words:
            assert not MINOR_WORDS & set(re.findall("[a-z]+", word.lower())), word
        assert not MINOR_GLYPHS & set(entry.glyph.split("-")), entry.name


def test_every_word_and_its_plural_belongs_to_one_entry_only() -> None:
    for entry in LEXICON:
        for word in entry.words:
            assert find_entries(word) == [entry], word
            if word not in entry.bare:
                assert find_entries(plural(word)) == [entry], plural(word)


def test_names_and_glyphs_are_unique() -> None:
    assert len(BY_NAME) == len(LEXICON) == len({entry.glyph for entry in LEXICON})


@pytest.mark.parametrize(
    ("caption", "names"),
    [
        ("A woman walks a PISTOL near the river.", ["woman", "gun", "river"]),
        ("two policemen chase thieves", ["police officer", "thief"]),
        ("knives, mice and loaves of bread", ["knife", "mouse", "bread"]),
        ("an old man's dog", ["old man", "dog"]),
        ("a fire truck beside a fire", ["fire truck", "fire"]),
        ("the dog eats a hot dog", ["dog", "hot dog"]),
        ("a dog and another dog", ["dog"]),
        ("a man in a T-shirt", ["man", "shirt"]),
        ("hot-dog stand", ["hot dog"]),
        ("the dogma of carpets", []),
        ("", []),
    ],
)
def test_captions_are_read_in_order_longest_phrase_first(caption: str, names: list[str]) -> None:
    assert _names(caption) == names


def test_number_words_are_read_even_before_an_adjective() -> None:
    found = find_mentions("two apples, three small dogs and a cat")
    assert [(mention.entry.name, mention.count) for mention in found] == [
        ("apple", 2),
        ("dog", 3),
        ("cat", 1),
    ]


@pytest.mark.parametrize(
    ("phrase", "expected"),
    [
        *(("old woman", "old women"), ("bus", "buses"), ("city", "cities"), ("monkey", "monkeys")),
        *(
            ("fish", "fish"),
            ("loaf of bread", "loaves of bread"),
            ("tomato", "tomatoes"),
            ("thief", "thieves"),
        ),
    ],
)
def test_plurals(phrase: str, expected: str) -> None:
    assert plural(phrase) == expected
