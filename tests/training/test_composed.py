"""Composed captions: what was put in decides the label, the teacher says where they go."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from pydantic import ValidationError

from safeclip.encoders.embed import embed_texts
from safeclip.settings import ConceptInsertion
from safeclip.training.augment import JOINTS, crop_captions, insert, insert_concepts
from tests.training.tiny import tiny_table

PHRASES = ("a gun", "the bomb")


def made(rows, encoder, positive=0.5, control=0.25, seed=3):
    captions = tiny_table(24, "train")["caption_safe"].to_pylist()
    return insert_concepts(rows, captions, PHRASES, encoder, positive=positive, control=control, seed=seed)


def word_id(encoder, word: str) -> int:
    return int(encoder.tokenizer([word])[0, 1])


@pytest.mark.parametrize("seed", range(40))
def test_a_composed_caption_holds_the_words_whole_and_names_what_is_left(seed):
    caption = "a dog runs near the old house"
    composed = insert(caption, "two big bombs", np.random.default_rng(seed))
    assert "two big bombs" in composed.text
    left = composed.text.replace("two big bombs", " ").split()
    joints = [[], *(joint.split() for joint in JOINTS)]
    rest = composed.rest.split()
    assert left in [*(rest + joint for joint in joints), *(joint + rest for joint in joints)]
    assert set(composed.rest.split()) <= set(caption.split())
    assert composed.rest


def test_a_caption_of_one_word_is_never_lost():
    for seed in range(40):
        assert insert("river", "a gun", np.random.default_rng(seed)).rest == "river"


def test_each_pass_replaces_its_shares_and_labels_them_by_what_was_put_in(encoder, splits):
    train, _ = splits
    captions = tiny_table(24, "train")["caption_safe"].to_pylist()
    passes = crop_captions(train, captions, encoder, share=0.5, draws=3, seed=1)
    before = passes.tokens_generated.clone()
    rows = made(passes, encoder)
    assert torch.equal(passes.tokens_generated, before)
    changed = (rows.tokens_generated != before).any(dim=1).view(3, 24)
    assert (changed.sum(dim=1) == 12 + 6).all()
    assert not torch.equal(changed[0], changed[1])
    named = torch.isin(rows.tokens_generated, torch.tensor([word_id(encoder, w) for w in ("gun", "bomb")]))
    whole = changed.flatten() & (rows.tokens_generated[:, -1] == 0)  # the tiny model cuts long captions
    assert whole.sum() > 36
    assert torch.equal(rows.text_unsafe[whole], named.any(dim=1)[whole])
    kept = ~changed.flatten()
    assert torch.equal(rows.text_unsafe[kept], passes.text_unsafe[kept])
    assert torch.equal(rows.target_text[kept], passes.target_text[kept])


def test_the_teacher_places_harmless_ones_and_unsafe_ones_go_to_what_is_left(encoder, splits):
    train, _ = splits
    rows = made(train, encoder, positive=1.0, control=0.0)
    assert rows.text_unsafe.all()
    captions = tiny_table(24, "train")["caption_safe"].to_pylist()
    pieces = {
        " ".join(c.split()[:i] + c.split()[j:]) for c in captions for i in range(5) for j in range(i, 5)
    }
    pieces |= {" ".join(c.split()[i:j]) for c in captions for i in range(5) for j in range(i + 1, 5)}
    known = embed_texts(encoder, sorted(pieces - {""}))
    assert (rows.target_text @ known.T).max(dim=1).values.min() > 1 - 1e-5
    harmless = made(train, encoder, positive=0.0, control=1.0)
    assert not harmless.text_unsafe.any()
    with torch.no_grad():
        belongs = torch.nn.functional.normalize(encoder.model.encode_text(harmless.tokens_generated), dim=-1)
    assert torch.allclose(harmless.teacher.text_generated, belongs, atol=1e-5)


def test_without_shares_nothing_changes_and_a_seed_composes_alike(encoder, splits):
    train, _ = splits
    assert made(train, encoder, positive=0.0, control=0.0) is train
    tokens = [made(train, encoder, seed=seed).tokens_generated for seed in (1, 1, 2)]
    assert torch.equal(tokens[0], tokens[1])
    assert not torch.equal(tokens[0], tokens[2])


def test_shares_beyond_all_captions_are_refused():
    with pytest.raises(ValidationError, match="sum to at most 1"):
        ConceptInsertion(positive=0.7, control=0.4)
