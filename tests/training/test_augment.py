"""Augmented captions: the teacher places crops; what was inserted decides the label."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from pydantic import ValidationError

from safeclip.encoders.embed import embed_texts
from safeclip.settings import ConceptInsertion
from safeclip.training.augment import JOINTS, LONGEST_CROP, crop_captions, insert, insert_concepts
from safeclip.training.step import embed_rows
from tests.training.tiny import tiny_table

PHRASES = ("a gun", "the bomb")


def made(rows, encoder, positive=0.5, control=0.25, seed=3):
    captions = tiny_table(24, "train")["caption_safe"].to_pylist()
    return insert_concepts(rows, captions, PHRASES, encoder, positive=positive, control=control, seed=seed)


def word_id(encoder, word: str) -> int:
    return int(encoder.tokenizer([word])[0, 1])


@pytest.mark.parametrize("seed", range(40))
def test_an_insertion_holds_the_words_whole_and_names_what_is_left(seed):
    caption = "a dog runs near the old house"
    insertion = insert(caption, "two big bombs", np.random.default_rng(seed))
    assert "two big bombs" in insertion.text
    left = insertion.text.replace("two big bombs", " ").split()
    joints = [[], *(joint.split() for joint in JOINTS)]
    rest = insertion.rest.split()
    assert left in [*(rest + joint for joint in joints), *(joint + rest for joint in joints)]
    assert set(insertion.rest.split()) <= set(caption.split())
    assert insertion.rest


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


def captions_of(rows) -> list[str]:
    table = tiny_table(len(rows), "train")
    assert tuple(table["id"].to_pylist()) == rows.ids
    return table["caption_safe"].to_pylist()


def cropped(rows, encoder, share=0.5, draws=3, seed=3):
    return crop_captions(rows, captions_of(rows), encoder, share=share, draws=draws, seed=seed)


def test_every_draw_crops_a_share_and_the_teacher_places_the_crops(encoder, splits):
    train, _ = splits
    rows = cropped(train, encoder)
    assert len(rows) == 3 * len(train)
    whole = (rows.tokens_safe.view(3, len(train), -1) == train.tokens_safe).all(dim=2)
    assert (whole.sum(dim=1) >= len(train) // 2).all()  # a cut may leave all the words
    assert not whole.all(dim=1).any()
    assert not torch.equal(whole[0], whole[1])
    words = [caption.split() for caption in captions_of(train)]
    spans = sorted(
        {
            " ".join(text[start : start + length])
            for text in words
            for length in range(1, LONGEST_CROP + 1)
            for start in range(len(text))
        }
    )
    tokens, embeddings = encoder.tokenizer(spans), embed_texts(encoder, spans)
    for row in torch.where(~whole.flatten())[0]:
        at = torch.where((tokens == rows.tokens_safe[row]).all(dim=1))[0]
        assert torch.allclose(rows.teacher.text_safe[row], embeddings[at[0]], atol=1e-5)


def test_images_targets_and_generated_captions_are_those_of_the_whole_rows(encoder, splits):
    train, _ = splits
    rows = cropped(train, encoder)
    second = torch.arange(len(train), 2 * len(train))
    before = embed_rows(encoder.model, train, torch.arange(len(train)))
    after = embed_rows(encoder.model, rows, second)
    for name in ("text_generated", "image_safe", "image_generated"):
        assert torch.allclose(getattr(after, name), getattr(before, name), atol=1e-5)
    assert torch.equal(rows.target_text[second], train.target_text)
    assert torch.equal(rows.teacher.text_generated[second], train.teacher.text_generated)
    assert torch.equal(rows.image_unsafe[second], train.image_unsafe)


def test_without_a_share_nothing_changes_and_a_seed_crops_alike(encoder, splits):
    train, _ = splits
    assert cropped(train, encoder, share=0.0) is train
    tokens = [cropped(train, encoder, seed=seed).tokens_safe for seed in (1, 1, 2)]
    assert torch.equal(tokens[0], tokens[1])
    assert not torch.equal(tokens[0], tokens[2])
