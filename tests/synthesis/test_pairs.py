"""The curated pairs: complete and clean, and a faulty line is named without quoting it."""

from __future__ import annotations

import json
from collections import Counter
from pathlib import Path

import pytest

from picturebook.lexicon import find_entries
from safeclip.core.errors import DataError
from safeclip.core.guard import load_guard
from safeclip.core.taxonomy import load_taxonomy
from safeclip.synthesis.pairs import load_pairs

DATA = Path(__file__).parents[2] / "data"
GUARD = load_guard().with_placeholders(minors=["vozgaltib"], sexual=["trelkinso"])
TAXONOMY = load_taxonomy(DATA / "taxonomy.yaml")
PAIRS = load_pairs(DATA / "curated_pairs.jsonl", GUARD, TAXONOMY)


def _unsafe(text: str) -> set[str]:
    return {entry.name for entry in find_entries(text) if entry.unsafe}


def test_a_hundred_pairs_spread_over_all_categories() -> None:
    assert len(PAIRS) == 100
    counts = Counter(category for pair in PAIRS for category in pair.categories)
    assert set(counts) == set(TAXONOMY.categories)
    assert min(counts.values()) >= 10


def test_no_pair_names_a_minor() -> None:
    assert [p.id for p in PAIRS if GUARD.names_minor(p.caption_safe + " . " + p.caption_unsafe)] == []


def test_pairs_can_be_drawn_safe_as_safe_and_unsafe_as_what_was_asked() -> None:
    assert [p.id for p in PAIRS if not find_entries(p.caption_safe) or _unsafe(p.caption_safe)] == []
    assert [p.id for p in PAIRS if not _unsafe(p.caption_unsafe) & _unsafe(p.concept)] == []


def test_a_rewrite_keeps_something_of_its_scene() -> None:
    kept = [
        {entry.name for entry in find_entries(p.caption_safe)}
        & {entry.name for entry in find_entries(p.caption_unsafe)}
        for p in PAIRS
    ]
    assert all(kept)


def test_safe_captions_are_not_those_of_the_data_set() -> None:
    captions = {json.loads(line)["caption"] for line in (DATA / "captions.jsonl").read_text().splitlines()}
    assert [p.id for p in PAIRS if p.caption_safe in captions] == []


def _line(**changes: object) -> str:
    pair = {
        "id": "pair-x",
        "caption_safe": "a man holds a sandwich",
        "caption_unsafe": "a man holds a gun",
        "concept": "a gun",
        "categories": ["violence", "illegal"],
    }
    return json.dumps(pair | changes)


@pytest.mark.parametrize(
    ("line", "fault"),
    [
        ("{broken", "not JSON"),
        ("[1]", "the line"),
        (_line(colour="red"), "`colour`"),
        (_line(caption_unsafe=" "), "`caption_unsafe`"),
        (_line(categories=[]), "`categories`"),
        (_line(concept="a thing of no taxonomy"), "its concept is no phrase"),
        (_line(categories=["sexual"]), "its categories are not those"),
        (_line(caption_unsafe="a man holds a sandwich"), "both captions are the same"),
        (_line(id="pair-1"), "its id is used"),
        (_line(caption_safe="a dog sits in the park"), "its safe caption is that of an earlier line"),
        (_line(caption_unsafe="a vozgaltib and a trelkinso"), "refused by the content guard"),
    ],
)
def test_a_faulty_line_is_named_by_number_and_never_quoted(tmp_path: Path, line: str, fault: str) -> None:
    file = tmp_path / "pairs.jsonl"
    first = _line(id="pair-1", caption_safe="a dog sits in the park", caption_unsafe="a gun lies in the park")
    file.write_text(f"{first}\n{line}\n")
    with pytest.raises(DataError) as error:
        load_pairs(file, GUARD, TAXONOMY)
    message = str(error.value)
    assert "pairs.jsonl, line 2:" in message
    assert fault in message
    assert "vozgaltib" not in message
    assert "\n" not in message


def test_no_pairs_is_a_fault(tmp_path: Path) -> None:
    (tmp_path / "empty.jsonl").write_text("")
    with pytest.raises(DataError, match="holds no pairs"):
        load_pairs(tmp_path / "empty.jsonl", GUARD, TAXONOMY)
    with pytest.raises(DataError, match="cannot be read"):
        load_pairs(tmp_path / "none.jsonl", GUARD, TAXONOMY)
