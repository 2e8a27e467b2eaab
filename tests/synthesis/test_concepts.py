"""Concepts are near the caption, allowed by the guard, and drawn by the row alone."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

import pytest
import torch

from safeclip.core.guard import load_guard
from safeclip.core.taxonomy import Phrase, load_taxonomy
from safeclip.synthesis.captions import SafeCaption
from safeclip.synthesis.concepts import concept_report, draw_concepts
from safeclip.synthesis.rewrite import make_requests
from tests.synthesis.tiny import MINOR, SEXUAL

PHRASES = [
    Phrase(text=f"concept {n}", concept="test", categories=("sexual",) if n % 2 else ("violence",))
    for n in range(10)
]
TAXONOMY = load_taxonomy(Path(__file__).resolve().parents[2] / "data" / "taxonomy.yaml")
GUARD = load_guard().with_placeholders(minors=[MINOR], sexual=[SEXUAL])


def test_the_draw_is_among_the_nearest_and_spread_over_them() -> None:
    rows = [(f"row-{n}", "a dog by the river") for n in range(600)]
    cosines = torch.linspace(0, 1, 10).expand(600, 10)  # the last phrases are the nearest
    draws = draw_concepts(rows, PHRASES, cosines, GUARD, nearest=3, seed=1)
    counts = Counter(draw.phrase.text for draw in draws if draw.phrase)
    assert set(counts) == {"concept 7", "concept 8", "concept 9"}
    assert min(counts.values()) > 150
    assert {draw.eligible for draw in draws} == {3}


def test_a_row_keeps_its_concept_whatever_other_rows_there_are() -> None:
    rows = [(f"row-{n}", "a dog by the river") for n in range(20)]
    cosines = torch.rand(20, 10)
    every = draw_concepts(rows, PHRASES, cosines, GUARD, nearest=5, seed=1)
    some = draw_concepts(rows[::3], PHRASES, cosines[::3], GUARD, nearest=5, seed=1)
    assert some == every[::3]
    assert every != draw_concepts(rows, PHRASES, cosines, GUARD, nearest=5, seed=2)


def test_a_caption_that_names_a_minor_never_gets_a_sexual_concept() -> None:
    rows = [(f"row-{n}", f"a {MINOR} by the river") for n in range(200)]
    cosines = torch.linspace(0, 1, 10).expand(200, 10)
    draws = draw_concepts(rows, PHRASES, cosines, GUARD, nearest=50, seed=1)
    assert {draw.phrase.categories for draw in draws if draw.phrase} == {("violence",)}
    assert {draw.eligible for draw in draws} == {5}  # the even half


def test_a_row_without_an_allowed_concept_stops_before_the_model() -> None:
    caption = SafeCaption(id="a", split="train", caption=f"a {MINOR} by the river", source="test")
    draws = draw_concepts([("a", caption.caption)], PHRASES[1:2], torch.ones(1, 1), GUARD, nearest=5, seed=1)
    requests, refused = make_requests([caption], draws, GUARD)
    assert requests == []
    assert refused == [
        {"id": "a", "stage": "rewrite_captions", "reason": "no concept is allowed for the caption"}
    ]


def test_a_request_that_trips_the_guard_stops_before_the_model() -> None:
    captions = [
        SafeCaption(id="a", split="train", caption=f"a {MINOR} with a {SEXUAL} by the river", source="test"),
        SafeCaption(id="b", split="train", caption="a dog by the river", source="test"),
    ]
    harmless = Phrase(text="a fire", concept="test", categories=("violence",))
    rows = [(caption.id, caption.caption) for caption in captions]
    draws = draw_concepts(rows[1:], [harmless], torch.ones(1, 1), GUARD, nearest=5, seed=1)
    requests, refused = make_requests(captions, draws * 2, GUARD)
    assert [request.id for request in requests] == ["b"]
    assert refused[0]["reason"] == "the request trips the content guard"
    assert MINOR not in str(refused)


@pytest.mark.parametrize(
    ("balance", "low", "high"), [(0.0, 0.06, 0.14), (0.5, 0.26, 0.34), (1.0, 0.46, 0.54)]
)
def test_balance_gives_a_category_of_few_phrases_its_share(balance: float, low: float, high: float) -> None:
    few_and_many = [
        Phrase(text=f"concept {n}", concept="test", categories=("illegal",) if n == 0 else ("violence",))
        for n in range(10)
    ]
    rows = [(f"row-{n}", "a dog by the river") for n in range(2000)]
    draws = draw_concepts(
        rows, few_and_many, torch.rand(2000, 10), GUARD, nearest=10, balance=balance, seed=1
    )
    share = sum(draw.phrase is few_and_many[0] for draw in draws) / len(draws)
    assert low < share < high


def test_the_report_says_what_policy_leaves_and_what_was_drawn() -> None:
    rows = [("a", f"a {MINOR} by the river"), ("b", "a dog by the river")]
    draws = draw_concepts(rows, TAXONOMY.phrases, torch.rand(2, 263), GUARD, nearest=500, seed=1)
    report = concept_report(draws, TAXONOMY)
    allowed = sum("sexual" not in phrase.categories for phrase in TAXONOMY.phrases)
    assert report["eligible"] == {"min": allowed, "median": 263, "max": 263, "rows_without": 0}
    assert (report["phrases"], report["concepts_published"]) == (263, 20)
    assert (
        report["concepts_excluded"] == sum(concept.policy == "exclude" for concept in TAXONOMY.concepts) > 0
    )
    assert sum(report["drawn"].values()) == sum(len(draw.phrase.categories) for draw in draws if draw.phrase)
