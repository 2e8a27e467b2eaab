"""The small tokenizer: any text tokenises, and transformers and open_clip read it alike."""

from pathlib import Path

import open_clip
import pytest
from open_clip.tokenizer import basic_clean
from transformers import CLIPTokenizer

from safeclip.encoders.tokenizer import END, PAD, START, count_pieces, save_vocabulary, train_vocabulary

BASE = Path("data/base_encoder")
ODD_TEXTS = [
    "a man walks a dog near the river",
    "A MAN walks a DOG!",
    "",
    "   ",
    "naïve café, 日本語 and 😀",
    "don't stop: it's 2024 & 50% off",
    "x <|endoftext|> y <|pad|> z",
    "tab\tand\nnew line",
    "zß½\u0301 \ufeff\u200b",
    "supercalifragilisticexpialidocious " * 20,
]


@pytest.fixture(scope="module")
def base_tokenizer() -> CLIPTokenizer:
    return CLIPTokenizer.from_pretrained(BASE)


def test_the_shipped_vocabulary_is_small_and_its_end_token_has_the_highest_id(base_tokenizer):
    assert len(base_tokenizer) <= 4000
    assert base_tokenizer.eos_token_id == len(base_tokenizer) - 1
    assert base_tokenizer.pad_token_id == 0


@pytest.mark.parametrize("text", ODD_TEXTS)
def test_open_clip_and_transformers_read_the_same_tokens(base_tokenizer, text):
    tokenizer = open_clip.get_tokenizer(f"local-dir:{BASE}")
    ours = tokenizer([text])[0].tolist()
    width = tokenizer.context_length
    theirs = base_tokenizer(
        basic_clean(text), padding="max_length", truncation=True, max_length=width
    ).input_ids
    assert ours == theirs
    assert ours.count(base_tokenizer.eos_token_id) == 1


@pytest.mark.parametrize("text", [text for text in ODD_TEXTS if text.strip() and "\n" not in text])
def test_every_text_comes_back_from_its_tokens(base_tokenizer, text):
    tokens = base_tokenizer(text).input_ids
    pieces = base_tokenizer.convert_ids_to_tokens(tokens[1:-1])
    assert START not in pieces
    assert END not in pieces
    normal = base_tokenizer.backend_tokenizer.normalizer.normalize_str(text)
    assert base_tokenizer.decode(tokens, skip_special_tokens=True).replace(" ", "") == normal.replace(" ", "")


def test_captions_of_the_picture_book_are_not_chopped_up(base_tokenizer):
    caption = "a construction worker and a farmer clean three alarm clocks next to the crowded hospital"
    assert len(base_tokenizer(caption).input_ids) <= len(caption.split()) + 4


def test_training_twice_gives_the_same_files(tmp_path):
    pieces = count_pieces(["a dog near the river", "a cat near the house", "Two dogs!"] * 5)
    for name in ("one", "two"):
        (tmp_path / name).mkdir()
        save_vocabulary(tmp_path / name, train_vocabulary(pieces, 600), context_length=16)
    for file in ("vocab.json", "merges.txt", "tokenizer_config.json"):
        assert (tmp_path / "one" / file).read_bytes() == (tmp_path / "two" / file).read_bytes()


def test_the_vocabulary_keeps_to_its_size_and_puts_special_tokens_where_open_clip_needs_them():
    vocabulary = train_vocabulary(count_pieces(["a dog near the river bank"] * 3), 530)
    assert len(vocabulary.tokens) <= 530
    assert len(set(vocabulary.tokens)) == len(vocabulary.tokens)
    assert vocabulary.tokens[0] == PAD
    assert vocabulary.tokens[-2:] == (START, END)


def test_a_vocabulary_too_small_for_all_bytes_is_refused():
    with pytest.raises(ValueError, match="515"):
        train_vocabulary(count_pieces(["a"]), 100)
