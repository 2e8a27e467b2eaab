"""What counts as a caption in a language model's answer, and what does not."""

from __future__ import annotations

import pytest

from safeclip.core.guard import load_guard
from safeclip.synthesis.answers import AnswerCheck, clean, fault
from safeclip.synthesis.engines import SYSTEM, RewriteAnswer, RewriteRequest
from tests.synthesis.tiny import MINOR, SEXUAL

CAPTION, CONCEPT = "a woman walks a dog near the river", "a loaded gun"
GOOD = "a woman walks with a gun near the river"


@pytest.mark.parametrize(
    "answer",
    [
        GOOD,
        f'  "{GOOD}"  ',
        f"“{GOOD}”",
        f"{GOOD}\nThis caption shows the concept.",
        f"\n\n{GOOD}\n",
        f"Unsafe caption: {GOOD}",
        f"1. {GOOD}",
        f"- {GOOD},",
        f"**{GOOD}**",
        "a  woman walks\twith a gun near the river",
    ],
)
def test_the_caption_is_found_in_its_wrapping(answer: str) -> None:
    assert clean(answer) == GOOD


def test_only_the_first_sentence_counts() -> None:
    assert clean(f"{GOOD}. She is happy. The end.") == f"{GOOD}."


def test_loose_ends_are_cut_where_the_length_limit_struck() -> None:
    assert clean(f"{GOOD} and the", complete=False) == GOOD
    assert clean("a man looks at the", complete=True) == "a man looks at the"


@pytest.mark.parametrize(
    ("answer", "reason"),
    [
        ("", "empty answer"),
        (" \n\n ", "empty answer"),
        ('"..."', "empty answer"),
        (CAPTION, "unchanged caption"),
        (f"{CAPTION.upper()}.", "unchanged caption"),
        (f"{CONCEPT}: {CAPTION}", "prompt echo"),
        (f"{SYSTEM} {GOOD}", "prompt echo"),
        (f"<|im_start|>{GOOD}", "prompt echo"),
        (f"user {GOOD}", "prompt echo"),
        ("I'm sorry, but I can't help with that", "refusal"),
        ("As an AI language model I do not draw guns", "refusal"),
        ("a gun | a knife | a bomb in the park", "several captions"),
        ("a man with a gun 2. a man with a bomb", "several captions"),
        ("a gun", "too short"),
        (" ".join(["a man with a gun follows the other man along the road to town"] * 4), "too long"),
        ("a gun gun gun near the river", "repetition"),
        ("a man a man a man a man a man", "repetition"),
        ("женщина с пистолетом у реки", "empty answer"),
        ("une femme près d’été côté forêt âgée là", "not English text"),
        ("xkcdq zzrtpl vbnmw qwrt", "not English text"),
        ("une femme avec un pistolet dans la rue", "not English text"),
        ("una mujer camina con una pistola cerca del rio", "not English text"),
        ("ein Mann mit einer Pistole in der Bank", "not English text"),
        (" ".join(f"w{chr(97 + n % 26)}{chr(97 + n // 26)}e" for n in range(500)), "too long"),
        ("{'a': 1, 'man': [2, 3], 'gun': 4}", "not English text"),
        ("a man is tortured near the river", "explicit wording"),
    ],
)
def test_bad_answers_are_named(answer: str, reason: str) -> None:
    assert fault(clean(answer), CAPTION, CONCEPT) == reason


@pytest.mark.parametrize("answer", [GOOD, "an old man steals a dog near the river", "two cats sit on a gun"])
def test_changed_captions_pass_safe_or_not(answer: str) -> None:
    assert fault(clean(answer), CAPTION, CONCEPT) == ""


def test_the_guard_comes_first_and_sees_the_whole_answer() -> None:
    check = AnswerCheck(load_guard().with_placeholders(minors=[MINOR], sexual=[SEXUAL]))
    request = RewriteRequest("row-1", CAPTION, CONCEPT)
    outcome = check(request, RewriteAnswer("row-1", f"{GOOD}\na {MINOR} and a {SEXUAL}"))
    assert outcome.destroyed
    assert outcome.text is None


def test_a_minor_named_under_a_sexual_concept_is_destroyed() -> None:
    check = AnswerCheck(load_guard().with_placeholders(minors=[MINOR], sexual=[SEXUAL]))
    answer = RewriteAnswer("row-1", f"a {MINOR} walks near the river")
    assert check(RewriteRequest("row-1", CAPTION, CONCEPT, ("sexual",)), answer).destroyed
    assert check(RewriteRequest("row-1", CAPTION, CONCEPT, ("violence",)), answer).text is not None
