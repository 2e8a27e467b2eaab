"""The taxonomy: complete, drawable, and every fault of the file is one clear line."""

from __future__ import annotations

from pathlib import Path

import pytest
from pydantic import ValidationError

from picturebook.lexicon import CATEGORIES, find_entries
from safeclip.core.errors import DataError
from safeclip.core.guard import load_guard
from safeclip.core.taxonomy import load_taxonomy

FILE = Path(__file__).parents[2] / "data" / "taxonomy.yaml"
TAXONOMY = load_taxonomy(FILE)

GOOD = """
categories: [red, blue]
concepts:
  - id: published-01
    name: first
    policy: use
    reason: Because.
    phrases:
      - {text: one thing, categories: [red]}
      - {text: two things, categories: [red, blue]}
  - {id: published-02, policy: exclude, reason: By policy.}
"""


def test_the_seven_categories_and_twenty_concepts_are_there() -> None:
    assert set(TAXONOMY.categories) == set(CATEGORIES)
    assert len(TAXONOMY.categories) == 7
    assert [concept.id for concept in TAXONOMY.concepts] == [f"published-{n:02d}" for n in range(1, 21)]


def test_what_policy_excludes_has_no_text() -> None:
    excluded = [concept for concept in TAXONOMY.concepts if concept.policy == "exclude"]
    assert [concept.id for concept in excluded] == ["published-18"]
    assert all(concept.name is None and not concept.phrases for concept in excluded)


def test_phrases_are_many_and_map_many_to_many_onto_categories() -> None:
    phrases = TAXONOMY.phrases
    assert len(phrases) >= 200
    assert sum(len(phrase.categories) > 1 for phrase in phrases) >= 50
    for category in TAXONOMY.categories:
        assert sum(category in phrase.categories for phrase in phrases) >= 15, category


def test_phrases_pass_the_guard_and_name_no_minor() -> None:
    guard = load_guard()
    assert [p.text for p in TAXONOMY.phrases if guard.names_minor(p.text)] == []


def test_nearly_every_phrase_shows_in_the_picture_book_in_a_category_of_its_own() -> None:
    shown = [
        phrase
        for phrase in TAXONOMY.phrases
        if any(set(entry.categories) & set(phrase.categories) for entry in find_entries(phrase.text))
    ]
    assert len(shown) >= 0.95 * len(TAXONOMY.phrases)


def test_a_loaded_taxonomy_cannot_be_changed() -> None:
    with pytest.raises(ValidationError):
        TAXONOMY.phrases[0].text = "else"  # type: ignore[misc]
    with pytest.raises(ValidationError):
        TAXONOMY.categories = ()  # type: ignore[misc]


def test_phrases_carry_their_concept(tmp_path: Path) -> None:
    file = tmp_path / "taxonomy.yaml"
    file.write_text(GOOD)
    loaded = load_taxonomy(file).phrases
    assert [(p.text, p.concept, p.categories) for p in loaded] == [
        ("one thing", "first", ("red",)),
        ("two things", "first", ("red", "blue")),
    ]


@pytest.mark.parametrize(
    ("old", "new", "fault"),
    [
        ("reason: Because.", "reason: Because.\n    weight: 3", "unknown key `concepts.0.weight`"),
        ("{text: one thing,", "{text: one thing, score: 1,", "unknown key"),
        ("[red, blue]}", "[red, green]}", "'two things': unknown category 'green'"),
        ("two things", "One thing", "phrase 'one thing' is listed twice"),
        ("[red, blue]\n", "[red, blue, red]\n", "category 'red' is listed twice"),
        ("[red, blue]\n", "[red, blue, lonely]\n", "category 'lonely' has no phrase"),
        ("published-02", "published-01", "concept 'published-01' is listed twice"),
        ("categories: [red]}", "categories: []}", "concepts.0.phrases.0.categories"),
        ("text: one thing", "text: ''", "concepts.0.phrases.0.text"),
        ("text: one thing", "text: 12", "concepts.0.phrases.0.text"),
        ("policy: exclude", "policy: exclude, name: named", "neither name nor phrases"),
        ("policy: exclude", "policy: use, name: bare", "at least one phrase"),
        ("policy: exclude", "policy: perhaps", "concepts.1.policy"),
        ("reason: Because.", "reason: ''", "concepts.0.reason"),
        ("categories: [red, blue]\n", "", "categories"),
        ("categories: [red, blue]", "categories: [red, blue", "not valid YAML"),
        (GOOD, "", "the file"),
        (GOOD, "- just\n- a list\n", "the file"),
    ],
)
def test_each_fault_is_one_line_that_names_it(tmp_path: Path, old: str, new: str, fault: str) -> None:
    assert old in GOOD
    file = tmp_path / "taxonomy.yaml"
    file.write_text(GOOD.replace(old, new, 1))
    with pytest.raises(DataError) as error:
        load_taxonomy(file)
    message = str(error.value)
    assert fault in message
    assert "taxonomy.yaml" in message
    assert "\n" not in message


def test_a_missing_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"none\.yaml: no such file"):
        load_taxonomy(tmp_path / "none.yaml")
