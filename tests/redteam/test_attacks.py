"""Each attack keeps what it promises: length, letters, words, meaning, size, or most of the picture."""

from __future__ import annotations

import io
from typing import cast

import numpy as np
import pytest
from PIL import Image

from picturebook.lexicon import find_entries
from picturebook.synonyms import rename_unsafe
from safeclip import settings
from safeclip.core.guard import fold, load_guard
from safeclip.redteam import runner
from safeclip.redteam.attacks import make_attacks
from safeclip.redteam.image import STRIP, blur, crop, overlay
from safeclip.redteam.runner import ImageAttack, TextAttack, Victim
from safeclip.redteam.text import REWORDINGS, make_rewording, misspell
from safeclip.settings import Wording
from tests.redteam.material import SAFE, UNSAFE, picture, query
from tests.support.params import make_settings

NOBODY = cast(Victim, None)
WORDINGS = sorted({*REWORDINGS, "paraphrase"})


def made(cfg: settings.Attack) -> runner.Attack:
    [attack] = make_attacks(cfg, 5, load_guard(), 8, rename_unsafe)
    return attack


def reworded(kind: str, number: int = 0) -> str:
    asked = query(number)
    [text] = make_rewording(kind, 1, 1, rename_unsafe).captions([asked], NOBODY)[0]
    return text


def distance(one: str, other: str) -> int:
    """Edits (insert, delete, replace, swap of neighbours) that turn one word into the other."""
    rows = [[max(i, j) if not (i and j) else 0 for j in range(len(other) + 1)] for i in range(len(one) + 1)]
    for i, a in enumerate(one, 1):
        for j, b in enumerate(other, 1):
            rows[i][j] = min(rows[i - 1][j] + 1, rows[i][j - 1] + 1, rows[i - 1][j - 1] + (a != b))
            if i > 1 and j > 1 and (a, b) == (other[j - 2], one[i - 2]):
                rows[i][j] = min(rows[i][j], rows[i - 2][j - 2] + 1)
    return rows[-1][-1]


def test_only_the_words_that_the_safe_caption_lacks_are_hidden() -> None:
    assert query().added == ("revolver",)
    assert query(caption=SAFE).added == tuple(SAFE.split())


@pytest.mark.parametrize("kind", ["leetspeak", "homoglyphs"])
def test_look_alikes_keep_length_and_every_harmless_word(kind: str) -> None:
    text = reworded(kind)
    assert text != UNSAFE
    assert len(text) == len(UNSAFE)
    changed = [new for new, old in zip(text.split(), UNSAFE.split(), strict=True) if new != old]
    assert len(changed) == 1


def test_homoglyphs_read_as_the_very_same_text() -> None:
    assert fold(reworded("homoglyphs")) == UNSAFE


@pytest.mark.parametrize("seed", range(8))
def test_a_misspelling_is_at_most_one_edit(seed: int) -> None:
    generator = np.random.default_rng(seed)
    for word in ("ax", "gun", "pool", "revolver"):
        wrong = misspell(word, generator)
        assert wrong[0] == word[0]
        assert distance(word, wrong) <= 1
    assert misspell("ax", generator) == "ax"


def test_word_order_keeps_the_words() -> None:
    text = reworded("word_order")
    assert text != UNSAFE
    assert sorted(text.split()) == sorted(UNSAFE.split())


@pytest.mark.parametrize("number", range(10))
def test_a_paraphrase_names_the_same_things(number: int) -> None:
    text = reworded("paraphrase", number)
    assert UNSAFE not in text
    assert [entry.name for entry in find_entries(text)] == [entry.name for entry in find_entries(UNSAFE)]


def test_without_synonyms_only_the_sentence_around_it_changes() -> None:
    [texts] = make_rewording("paraphrase", 3, 1, None).captions([query()], NOBODY)
    assert all(UNSAFE in text and text != UNSAFE for text in texts)


def test_negation_is_the_safe_caption_with_the_concept_denied() -> None:
    for number in range(6):
        text = reworded("negation", number)
        assert text.startswith(SAFE)
        assert text.endswith((" no revolver", " without revolver"))


@pytest.mark.parametrize("kind", WORDINGS)
def test_the_same_seed_gives_the_same_words_whatever_else_is_asked(kind: str) -> None:
    attack = cast(TextAttack, made(Wording.model_validate({"kind": kind, "tries": 3})))
    together = attack.captions([query(1), query(2)], NOBODY)
    assert [together[1]] == attack.captions([query(2)], NOBODY)
    assert all(1 <= len(texts) <= 3 for texts in together)


@pytest.mark.parametrize(
    "cfg",
    [cfg for cfg in make_settings().red_team.attacks if cfg.kind in ("crop", "blur", "jpeg", "overlay")],
    ids=lambda cfg: cfg.kind,
)
def test_an_altered_picture_has_its_size_and_is_another(cfg) -> None:
    attack = cast(ImageAttack, made(cfg))
    [[changed]] = attack.images([query(3)], NOBODY)
    with Image.open(io.BytesIO(changed)) as opened:
        assert opened.size == (64, 64)
        assert opened.mode == "RGB"
    assert pixels(changed).tobytes() != pixels(picture(3)).tobytes()


def test_overlay_leaves_everything_above_its_strip() -> None:
    plain = Image.open(io.BytesIO(picture())).convert("RGB")
    printed = np.asarray(overlay(plain, "revolver"))
    top = 64 - round(64 * STRIP)
    assert (printed[:top] == np.asarray(plain)[:top]).all()
    assert (printed[top:] < 100).all(axis=2).any()  # letters
    assert (printed[top:] == 255).all(axis=2).any()


def test_crop_shows_the_middle_and_blur_keeps_the_brightness() -> None:
    values = np.zeros((64, 64, 3), np.uint8)
    values[16:48, 16:48] = 200
    plain = Image.fromarray(values)
    assert (np.asarray(crop(plain, 0.5)) > 150).mean() > 0.95
    assert abs(np.asarray(blur(plain, 1.0)).mean() - values.mean()) < 1.0


def pixels(data: bytes) -> np.ndarray:
    with Image.open(io.BytesIO(data)) as opened:
        return np.asarray(opened.convert("RGB"))
