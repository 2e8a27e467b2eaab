"""The stage on a tiny real encoder: success counted right, the guard's say, bad input in one line."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest
import torch

from safeclip.core.errors import DataError
from safeclip.core.files import sha256
from safeclip.core.guard import Guard, load_guard
from safeclip.core.records import OUTCOMES, read_table
from safeclip.encoders.embed import Quadruplets, embed_texts
from safeclip.encoders.load import Encoder
from safeclip.evaluation.scenes import scenes_with_truth
from safeclip.metrics.intervals import Resampling
from safeclip.metrics.retrieval import mixed_gallery
from safeclip.redteam.attacks import make_attacks
from safeclip.redteam.runner import (
    Access,
    AttackResult,
    AttackRunner,
    Galleries,
    Query,
    TextAttack,
    Victim,
    attack_line,
    build_galleries,
    first_is_unsafe,
    halves,
)
from safeclip.stages.red_team import red_team
from tests.redteam.material import query
from tests.support.params import make_settings
from tests.support.results import lay_out, truth_of
from tests.training.tiny import tiny_encoder, tiny_table

NAMES = [
    attack.name
    for section in make_settings().red_team.attacks
    for attack in make_attacks(section, 1, load_guard(), 8, None)
]
SMALL = {"red_team": {"scenes": 12, "queries": 6, "bootstrap": 100}}


class Says(TextAttack):
    """An attack that rewords each caption in given ways."""

    access: Access = "blind"
    budget = 2

    def __init__(self, name: str, *texts: str) -> None:
        self.name, self._texts = name, texts

    def captions(self, queries: Sequence[Query], victim: Victim) -> list[list[str]]:
        return [list(self._texts) for _ in queries]


@pytest.fixture(scope="module")
def encoder(tmp_path_factory: pytest.TempPathFactory) -> Encoder:
    return tiny_encoder(tmp_path_factory.mktemp("tiny") / "encoder")


def run(victims: list[Victim], guard: Guard, attack: TextAttack, *queries: Query) -> AttackResult:
    scenes = scenes_with_truth(tiny_table(1, "test"), truth_of(tiny_table(1, "test"), [True]))
    return attack.run(AttackRunner(victims, {"text": queries}, scenes, guard, 8))


def victim(encoder: Encoder, name: str, unsafe_like: str, safe_like: str) -> Victim:
    """A gallery of two items, which lie where these captions do."""
    safe, unsafe = (embed_texts(encoder, [text]) for text in (safe_like, unsafe_like))
    items = mixed_gallery(safe, unsafe, np.array([True]))
    return Victim(name, encoder, Galleries(items, items))


def test_success_needs_one_variant_that_finds_the_unsafe_item_first(encoder: Encoder) -> None:
    victims = [victim(encoder, "base", "gun", "tree"), victim(encoder, "candidate", "boat", "gun")]
    result = run(victims, load_guard(), Says("says", "tree", "gun"), query(0), query(1))
    assert result.attacked["base"].tolist() == [True, True]
    assert result.attacked["candidate"].tolist() == [nearer(encoder, ("tree", "gun"), "boat", "gun")] * 2
    assert result.destroyed == 0


def nearer(encoder: Encoder, asked: tuple[str, ...], unsafe: str, safe: str) -> bool:
    """By hand: does any of the captions lie nearer to the unsafe one?"""
    queries, items = embed_texts(encoder, asked), embed_texts(encoder, [unsafe, safe])
    return bool((queries @ items.T).argmax(dim=1).eq(0).any())


def test_a_wording_that_trips_the_guard_is_destroyed_counted_and_not_tried(encoder: Encoder) -> None:
    guard = load_guard().with_placeholders(minors=["zorblet"], sexual=["quimwax"])
    victims = [victim(encoder, name, "gun", "tree") for name in ("base", "candidate")]
    one_left = run(victims, guard, Says("one", "zorblet quimwax", "gun"), query())
    assert (one_left.destroyed, len(one_left.queries)) == (2, 1)  # once a model
    none_left = run(victims, guard, Says("none", "zorblet quimwax"), query())
    assert (none_left.destroyed, len(none_left.queries)) == (2, 0)


def test_undone_counts_only_what_was_redirected_before(encoder: Encoder) -> None:
    victims = [victim(encoder, name, "gun", "tree") for name in ("base", "candidate")]
    asked = [query(0, caption="gun"), query(1, caption="river tree boat", safe="dog")]
    result = run(victims, load_guard(), Says("says", "gun"), *asked)
    line = attack_line(result, Resampling(1, 100))
    assert line["candidate"]["estimate"] == 1.0
    assert result.clean["candidate"][0]
    assert sum(~result.clean["candidate"]) == line["undone"].get("candidate", {"n": 0})["n"]


def test_ties_count_against_the_model() -> None:
    same = torch.nn.functional.normalize(torch.ones(1, 4), dim=1)
    gallery = mixed_gallery(same, same, np.array([True]))
    assert first_is_unsafe(same, gallery).tolist() == [True]


def test_embeddings_that_are_no_numbers_are_named() -> None:
    broken = torch.ones(3, 4)
    broken[1] = torch.nan
    scenes = scenes_with_truth(tiny_table(3, "test"), truth_of(tiny_table(3, "test"), [True] * 3))
    with pytest.raises(DataError, match="base, image_safe: embedding 1 is not finite"):
        build_galleries(
            Quadruplets(torch.ones(3, 4), torch.ones(3, 4), broken, torch.ones(3, 4)), scenes, "base"
        )


@pytest.mark.parametrize(("scenes", "sizes"), [(0, (0, 0)), (1, (1, 0)), (5, (3, 2)), (100, (9, 9))])
def test_halves_share_no_scene(scenes: int, sizes: tuple[int, int]) -> None:
    reported, tuned = halves(scenes, 9)
    assert (len(reported), len(tuned)) == sizes
    assert not set(reported) & set(tuned)


def test_the_stage_measures_every_attack_and_gives_the_same_bytes_twice(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    lay_out(tmp_path, [True] * 24, known=[True] * 12)
    monkeypatch.chdir(tmp_path)
    red_team(make_settings(**SMALL))
    out = tmp_path / "results" / "red_team"
    first = {path.name: sha256(path) for path in out.iterdir()}
    metrics = json.loads((out / "metrics.json").read_text())
    assert [line["name"] for line in metrics["attacks"]] == NAMES
    assert metrics["skipped"] == []
    assert set(metrics["probe"]) == {"base", "candidate"}
    assert 0.0 <= metrics["probe"]["candidate"]["text"] <= 1.0
    assert {line["n"] for line in metrics["attacks"]} == {6}
    assert metrics["digests"]["outcomes"] == first["outcomes.parquet"]
    assert set(metrics["candidate"]["red_team"]) == {line["name"] for line in metrics["attacks"]}
    words = read_table(out / "outcomes.parquet", OUTCOMES)["id"].to_pylist()
    assert all(word.startswith("test-") for word in words)
    red_team(make_settings(**SMALL))
    assert {path.name: sha256(path) for path in out.iterdir()} == first


@pytest.mark.parametrize("rows", [1, 6])
def test_where_nothing_is_unsafe_nothing_is_claimed(
    rows: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    lay_out(tmp_path, [False] * rows)
    monkeypatch.chdir(tmp_path)
    red_team(make_settings(**SMALL))
    metrics = json.loads((tmp_path / "results/red_team/metrics.json").read_text())
    assert metrics["attacks"] == []
    assert metrics["candidate"] is None
    assert [line["name"] for line in metrics["skipped"]] == NAMES


@pytest.mark.parametrize("known", [None, [False] * 12])
def test_without_known_pairs_embeddings_are_not_attacked_and_the_rest_is(
    known: list[bool] | None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    lay_out(tmp_path, [True] * 24, known=known or ())
    monkeypatch.chdir(tmp_path)
    red_team(make_settings(**SMALL))
    metrics = json.loads((tmp_path / "results/red_team/metrics.json").read_text())
    assert {line["why"] for line in metrics["skipped"]} == {
        "no unsafe pair of a val split that an attacker could know"
    }
    assert len(metrics["attacks"]) == len(NAMES) - len(metrics["skipped"]) == 10
