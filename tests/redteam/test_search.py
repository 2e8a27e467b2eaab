"""Attacks that search, tune or train: they keep their bounds, come nearer, and leave the victim as it was."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from safeclip.core.errors import DataError
from safeclip.core.guard import Guard, load_guard
from safeclip.encoders.embed import embed_images, embed_texts
from safeclip.evaluation.scenes import judged_scenes
from safeclip.redteam.image import Pgd
from safeclip.redteam.measure import Range
from safeclip.redteam.model import (
    GradientTokens,
    Relearning,
    SubstituteTokens,
    UniversalImage,
    colour_scale,
    margin,
    one_token_words,
)
from safeclip.redteam.queries import Query, Victim, galleries, tuning, unsafe_queries
from tests.support.results import truth_of
from tests.training.tiny import tiny_encoder, tiny_table

ROWS = 10
SCENES = judged_scenes(tiny_table(ROWS, "test"), truth_of(tiny_table(ROWS, "test"), [True] * ROWS))
QUERIES = unsafe_queries(SCENES, ["weapons"] * ROWS, SCENES.text_unsafe, 4)


@pytest.fixture(scope="module")
def victim(tmp_path_factory: pytest.TempPathFactory) -> Victim:
    encoder = tiny_encoder(tmp_path_factory.mktemp("tiny") / "encoder")
    return Victim("base", encoder, galleries(encoder, SCENES, 8, "base"), tuning(encoder, SCENES, 8, "base"))


def test_pgd_stays_within_its_levels_and_comes_nearer(victim: Victim) -> None:
    changed = [pictures[0] for pictures in Pgd(levels=3, steps=4, batch_size=3).pictures(QUERIES, victim)]
    mean, deviation = colour_scale(victim.encoder)
    before, after = (
        victim.encoder.preprocess(images) * deviation + mean
        for images in ([query.image for query in QUERIES], changed)
    )
    assert 0.5 < float((after - before).abs().max() * 255) <= 3.001
    scores = [
        margin(embed_images(victim.encoder, images), victim.reported.texts)
        for images in ([query.image for query in QUERIES], changed)
    ]
    assert (scores[1] > scores[0]).all()


def test_substitutes_never_score_lower_and_leave_harmless_words(victim: Victim) -> None:
    attack = SubstituteTokens(budget=6, seed=1, guard=load_guard())
    found = [texts[0] for texts in attack.captions(QUERIES, victim)]
    before, after = (
        margin(embed_texts(victim.encoder, texts), victim.reported.images)
        for texts in ([query.caption for query in QUERIES], found)
    )
    assert (after >= before - 1e-6).all()
    assert (after > before).any()
    for text, query in zip(found, QUERIES, strict=True):
        kept = [word for word in query.caption.split() if word not in query.added]
        assert set(kept) <= set(text.split())
    assert found == [texts[0] for texts in attack.captions(QUERIES, victim)]


def test_what_the_guard_refuses_is_never_proposed(victim: Victim, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Guard, "trips", lambda guard, text, categories=(): True)
    attack = SubstituteTokens(budget=3, seed=1, guard=load_guard())
    assert attack.captions(QUERIES, victim) == [[query.caption] for query in QUERIES]


def test_appended_words_are_words_of_safe_captions(victim: Victim) -> None:
    attack = GradientTokens(words=2, steps=2, candidates=3)
    vocabulary, numbers = one_token_words(victim.encoder, SCENES.captions_safe)
    assert len(vocabulary) == len(numbers)
    plain = [f"{query.caption} {vocabulary[0]} {vocabulary[0]}" for query in QUERIES]
    found = [texts[0] for texts in attack.captions(QUERIES, victim)]
    for text, query in zip(found, QUERIES, strict=True):
        assert text.startswith(query.caption + " ")
        assert set(text.removeprefix(query.caption).split()) <= set(vocabulary)
    before, after = (
        margin(embed_texts(victim.encoder, texts), victim.reported.images) for texts in (plain, found)
    )
    assert (after >= before - 1e-6).all()


def test_a_universal_picture_counts_where_it_comes_first(victim: Victim) -> None:
    attack = UniversalImage(levels=255, steps=20)
    far, near = (
        float((victim_captions(victim) @ embed_images(victim.encoder, [picture])[0]).mean())
        for picture in (QUERIES[0].image, attack.item(victim))
    )
    assert near > far
    found = Range([victim, Victim("candidate", *list(vars(victim).values())[1:])], load_guard(), 8).gallery(
        attack, QUERIES
    )
    hub = embed_images(victim.encoder, [attack.item(victim)])[0]
    asked = embed_texts(victim.encoder, [query.safe for query in QUERIES])
    by_hand = asked @ hub >= (asked @ victim.reported.images.items.T).amax(dim=1) - 1e-6
    assert found.success["base"].tolist() == by_hand.tolist()
    assert found.modality == "gallery"


def victim_captions(victim: Victim) -> torch.Tensor:
    assert victim.tuned_on is not None
    return victim.tuned_on.embeddings.text_safe


def test_relearning_brings_pairs_together_and_leaves_the_victim_alone(victim: Victim) -> None:
    before = {name: value.clone() for name, value in victim.encoder.model.state_dict().items()}
    attack = Relearning(steps=8, batch_size=8, learning_rate=0.003, seed=1)
    after = attack.retrained(victim)
    assert all(torch.equal(value, before[name]) for name, value in victim.encoder.model.state_dict().items())
    assert after.digest != victim.encoder.digest
    assert pair_cosine(after) > pair_cosine(victim.encoder)
    again = attack.retrained(victim)
    assert torch.equal(embed_texts(after, ["gun"]), embed_texts(again, ["gun"]))


def pair_cosine(encoder) -> float:
    texts, images = (
        embed_texts(encoder, SCENES.captions_generated),
        embed_images(encoder, SCENES.images_generated),
    )
    scores = (texts @ images.T).numpy()
    return float(np.diag(scores).mean() - scores.mean())


def test_without_a_second_half_a_tuned_attack_says_so(victim: Victim) -> None:
    alone = Victim("base", victim.encoder, victim.reported)
    with pytest.raises(DataError, match="no second half of the scenes to tune on"):
        Relearning(1, 2, 0.001, 0).retrained(alone)


def test_the_full_profile_names_attacks_that_exist() -> None:
    from ruamel.yaml import YAML

    from safeclip.redteam.attacks import make_attacks
    from safeclip.settings import RedTeam
    from tests.support.toy import PROJECT

    own = RedTeam.model_validate(YAML(typ="safe").load(Path(PROJECT / "params/full.yaml"))["red_team"])
    names = [attack.name for how in own.attacks for attack in make_attacks(how, 1, load_guard(), 8)]
    assert len(names) == len(set(names)) == 17


def test_queries_are_the_unsafe_ones() -> None:
    assert all(isinstance(query, Query) for query in QUERIES)
    assert [query.row for query in QUERIES] == list(np.flatnonzero(SCENES.text_unsafe)[:4])
