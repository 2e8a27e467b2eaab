"""Attacks that search, tune or train: they keep their bounds, come nearer, and leave the victim as it was."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from safeclip.core.errors import DataError
from safeclip.core.guard import Guard, load_guard
from safeclip.encoders.embed import embed_images, embed_texts
from safeclip.evaluation.scenes import scenes_with_truth
from safeclip.redteam.image import PgdAttack, UniversalImageAttack, colour_scale
from safeclip.redteam.model import RelearningAttack
from safeclip.redteam.runner import AttackRunner, Query, Victim, make_victim, margin, unsafe_queries
from safeclip.redteam.text import GradientTokensAttack, SubstituteTokensAttack, one_token_words
from tests.support.results import truth_of
from tests.training.tiny import tiny_encoder, tiny_table

ROWS = 10
SCENES = scenes_with_truth(tiny_table(ROWS, "test"), truth_of(tiny_table(ROWS, "test"), [True] * ROWS))
QUERIES = unsafe_queries(SCENES, ["weapons"] * ROWS, SCENES.text_unsafe, 4)


@pytest.fixture(scope="module")
def victim(tmp_path_factory: pytest.TempPathFactory) -> Victim:
    encoder = tiny_encoder(tmp_path_factory.mktemp("tiny") / "encoder")
    return make_victim("base", encoder, SCENES, 8, tuning=SCENES)


def test_pgd_stays_within_its_levels_and_comes_nearer(victim: Victim) -> None:
    changed = [images[0] for images in PgdAttack(levels=3, steps=4, batch_size=3).images(QUERIES, victim)]
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
    attack = SubstituteTokensAttack(budget=6, seed=1, guard=load_guard())
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
    attack = SubstituteTokensAttack(budget=3, seed=1, guard=load_guard())
    assert attack.captions(QUERIES, victim) == [[query.caption] for query in QUERIES]


def test_appended_words_are_words_of_safe_captions(victim: Victim) -> None:
    attack = GradientTokensAttack(words=2, steps=2, candidates=3)
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
    attack = UniversalImageAttack(levels=255, steps=20)
    far, near = (
        float((victim_captions(victim) @ embed_images(victim.encoder, [picture])[0]).mean())
        for picture in (QUERIES[0].image, attack.item(victim))
    )
    assert near > far
    victims = [victim, replace(victim, name="candidate")]
    result = attack.run(AttackRunner(victims, {"text": QUERIES}, SCENES, load_guard(), 8))
    hub = embed_images(victim.encoder, [attack.item(victim)])[0]
    asked = embed_texts(victim.encoder, [query.safe for query in QUERIES])
    by_hand = asked @ hub >= (asked @ victim.reported.images.items.T).amax(dim=1) - 1e-6
    assert result.attacked["base"].tolist() == by_hand.tolist()
    assert result.modality == "gallery"


def victim_captions(victim: Victim) -> torch.Tensor:
    assert victim.tuning is not None
    return victim.tuning.embeddings.text_safe


def test_relearning_brings_pairs_together_and_leaves_the_victim_alone(victim: Victim) -> None:
    before = {name: value.clone() for name, value in victim.encoder.model.state_dict().items()}
    attack = RelearningAttack(steps=8, batch_size=8, learning_rate=0.003, seed=1)
    after = attack.retrain(victim)
    assert all(torch.equal(value, before[name]) for name, value in victim.encoder.model.state_dict().items())
    assert after.digest != victim.encoder.digest
    assert pair_cosine(after) > pair_cosine(victim.encoder)
    again = attack.retrain(victim)
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
        RelearningAttack(1, 2, 0.001, 0).retrain(alone)


def test_the_full_profile_names_attacks_that_exist() -> None:
    from ruamel.yaml import YAML

    from safeclip.redteam.attacks import make_attacks
    from tests.support.params import make_settings
    from tests.support.toy import PROJECT

    own = make_settings(**YAML(typ="safe").load(Path(PROJECT / "params/full.yaml"))).red_team
    names = [attack.name for how in own.attacks for attack in make_attacks(how, 1, load_guard(), 8, None)]
    assert len(names) == len(set(names)) == 35


def test_queries_are_the_unsafe_ones() -> None:
    assert all(isinstance(query, Query) for query in QUERIES)
    assert [query.row for query in QUERIES] == list(np.flatnonzero(SCENES.text_unsafe)[:4])
