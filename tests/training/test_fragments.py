"""Fragments: safe captions cut to a few of their words, placed where the teacher has them."""

from __future__ import annotations

import torch

from safeclip.encoders.embed import embed_texts
from safeclip.training.augment import LONGEST_CROP, crop_captions
from safeclip.training.step import embed_rows
from tests.training.tiny import tiny_table


def captions_of(rows) -> list[str]:
    table = tiny_table(len(rows), "train")
    assert tuple(table["id"].to_pylist()) == rows.ids
    return table["caption_safe"].to_pylist()


def cut(rows, encoder, share=0.5, draws=3, seed=3):
    return crop_captions(rows, captions_of(rows), encoder, share=share, draws=draws, seed=seed)


def test_every_draw_cuts_a_share_and_the_teacher_says_where_the_fragments_belong(encoder, splits):
    train, _ = splits
    rows = cut(train, encoder)
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


def test_pictures_targets_and_generated_captions_are_those_of_the_whole_rows(encoder, splits):
    train, _ = splits
    rows = cut(train, encoder)
    second = torch.arange(len(train), 2 * len(train))
    before = embed_rows(encoder.model, train, torch.arange(len(train)))
    after = embed_rows(encoder.model, rows, second)
    for name in ("text_generated", "image_safe", "image_generated"):
        assert torch.allclose(getattr(after, name), getattr(before, name), atol=1e-5)
    assert torch.equal(rows.target_text[second], train.target_text)
    assert torch.equal(rows.teacher.text_generated[second], train.teacher.text_generated)
    assert torch.equal(rows.image_unsafe[second], train.image_unsafe)


def test_without_a_share_nothing_changes_and_a_seed_cuts_alike(encoder, splits):
    train, _ = splits
    assert cut(train, encoder, share=0.0) is train
    tokens = [cut(train, encoder, seed=seed).tokens_safe for seed in (1, 1, 2)]
    assert torch.equal(tokens[0], tokens[1])
    assert not torch.equal(tokens[0], tokens[2])
