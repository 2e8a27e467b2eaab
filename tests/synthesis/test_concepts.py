"""Concepts are near the caption, allowed by the guard, and drawn by the row alone."""

from __future__ import annotations

from collections import Counter

import torch

from safeclip.guard import load_guard
from safeclip.synthesis.captions import SafeCaption
from safeclip.synthesis.concepts import draw_concepts, eligible_counts
from safeclip.synthesis.rewrite import make_requests
from safeclip.taxonomy import Phrase
from tests.synthesis.tiny import MINOR, SEXUAL

PHRASES = [
    Phrase(text=f"concept {n}", concept="test", categories=("sexual",) if n % 2 else ("violence",))
    for n in range(10)
]
GUARD = load_guard().with_placeholders(minors=[MINOR], sexual=[SEXUAL])


def test_the_draw_is_among_the_nearest_and_spread_over_them() -> None:
    rows = [(f"row-{n}", "a dog by the river") for n in range(600)]
    cosines = torch.linspace(0, 1, 10).expand(600, 10)  # the last phrases are the nearest
    draws = draw_concepts(rows, PHRASES, cosines, GUARD, nearest=3, seed=1)
    counts = Counter(draw.phrase.text for draw in draws if draw.phrase)
    assert set(counts) == {"concept 7", "concept 8", "concept 9"}
    assert min(counts.values()) > 150
    assert eligible_counts(draws) == {"min": 3, "median": 3, "max": 3}


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
    assert eligible_counts(draws)["max"] == 5  # the even half


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
