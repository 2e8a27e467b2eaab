"""Some safe captions cut to a few of their words, so that what preserves captions preserves words too.

Training sees whole scenes; zero-shot prompts name one thing. With whole captions alone the text tower is held
where scenes lie and drifts where single words do (measured: zero-shot 0.97 -> 0.86, with fragments 0.96). The
teacher says where a fragment belongs, so no caption has to be written for it.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

from safeclip.encoders.embed import Quadruplets, embed_texts
from safeclip.encoders.load import Encoder
from safeclip.training.rows import Rows

LONGEST = 5  # words


def crop_captions(
    rows: Rows, captions: Sequence[str], encoder: Encoder, *, share: float, draws: int, seed: int
) -> Rows:
    """The rows `draws` times over, each time with another `share` of the safe captions cut elsewhere.

    `captions` are the rows' safe ones, in order. Pictures are not copied, redirection targets stay those of
    the whole captions. Without a share the rows are returned as they are.
    """
    count = round(share * len(rows))
    if count == 0:
        return rows
    repeated = _repeat(rows, draws)
    generator = np.random.default_rng(seed)
    chosen = np.concatenate(
        [draw * len(rows) + np.sort(generator.permutation(len(rows))[:count]) for draw in range(draws)]
    )
    fragments = [" ".join(cut_words(captions[row % len(rows)], LONGEST, generator)[1]) for row in chosen]
    repeated.tokens_safe[chosen] = encoder.tokenizer(fragments)
    repeated.teacher.text_safe[chosen] = embed_texts(encoder, fragments)
    return repeated


def _repeat(rows: Rows, times: int) -> Rows:
    def repeated(tensor: Tensor) -> Tensor:
        return torch.cat([tensor] * times)

    return dataclasses.replace(
        rows,
        ids=rows.ids * times,
        tokens_safe=repeated(rows.tokens_safe),
        tokens_generated=repeated(rows.tokens_generated),
        text_unsafe=repeated(rows.text_unsafe),
        image_unsafe=repeated(rows.image_unsafe),
        pictures=repeated(rows.pictures),
        teacher=Quadruplets(**{name: repeated(part) for name, part in vars(rows.teacher).items()}),
        target_text=repeated(rows.target_text),
        target_image=repeated(rows.target_image),
    )


def cut_words(
    caption: str, longest: int, generator: np.random.Generator
) -> tuple[list[str], list[str], list[str]]:
    """A caption's words before, in and after a piece of one to `longest` successive ones."""
    words = caption.split()
    length = int(generator.integers(1, min(longest, len(words)) + 1))
    start = int(generator.integers(len(words) - length + 1))
    return words[:start], words[start : start + length], words[start + length :]


# Safe captions that other words were put into: a concept's phrase makes one unsafe, a fragment does not.
#
# A rewriter's captions name each concept a few times, together with much else, and some are labelled wrong.
# To learn which *words* are unsafe the text tower needs each of them often, in every surrounding, and
# beside as many harmless insertions made alike: else it learns that a caption looks edited. Both need no
# rewriter and no label: what was put in is known, and where the caption belongs without it says the
# teacher.


JOINTS = ("and", "with", "next to", "near", "beside", "behind", "in front of", "by", ",")
APPENDED, INSERTED = 0.4, 0.4  # shares of the ways to compose; the rest joins the words to a fragment
SHORT = 4  # words of a replaced or inserted piece, at most


@dataclasses.dataclass(frozen=True)
class Composed:
    """A caption that words were put into, and what of the safe caption is left in it (never empty)."""

    text: str
    rest: str


def insert_concepts(
    rows: Rows,
    captions: Sequence[str],
    phrases: Sequence[str],
    encoder: Encoder,
    *,
    positive: float,
    control: float,
    seed: int,
) -> Rows:
    """The rows with these shares of the generated captions replaced by composed ones, in every pass anew.

    `captions` are the safe ones of one pass, in order, `phrases` what makes a caption unsafe. An unsafe one
    is redirected to the teacher's embedding of what is left of the safe caption. The row's pictures stay:
    they do not show what a composed caption says.
    """
    counts = round(positive * len(captions)), round(control * len(captions))
    if not sum(counts):
        return rows
    generator = np.random.default_rng((seed, 1))
    passes = range(0, len(rows), len(captions))
    orders = [start + generator.permutation(len(captions)) for start in passes]
    unsafe_rows = np.concatenate([order[: counts[0]] for order in orders]).tolist()
    safe_rows = np.concatenate([order[counts[0] : sum(counts)] for order in orders]).tolist()
    words = [phrases[at % len(phrases)] for at in range(len(unsafe_rows))]
    words += [_piece(captions, generator) for _ in safe_rows]
    made = [
        compose(captions[row % len(captions)], put, generator)
        for row, put in zip(unsafe_rows + safe_rows, words, strict=True)
    ]
    return _replaced(rows, made, unsafe_rows, safe_rows, encoder)


def _replaced(
    rows: Rows, made: Sequence[Composed], unsafe_rows: list[int], safe_rows: list[int], encoder: Encoder
) -> Rows:
    """The rows with `made` in the place of the captions of unsafe_rows, then of safe_rows."""
    texts, chosen = [item.text for item in made], unsafe_rows + safe_rows
    tokens, labels = rows.tokens_generated.clone(), rows.text_unsafe.clone()
    embedded, targets = rows.teacher.text_generated.clone(), rows.target_text.clone()
    tokens[chosen], embedded[chosen] = encoder.tokenizer(texts), embed_texts(encoder, texts)
    labels[unsafe_rows], labels[safe_rows] = True, False
    if unsafe_rows:
        targets[unsafe_rows] = embed_texts(encoder, [item.rest for item in made[: len(unsafe_rows)]])
    return dataclasses.replace(
        rows,
        tokens_generated=tokens,
        text_unsafe=labels,
        teacher=dataclasses.replace(rows.teacher, text_generated=embedded),
        target_text=targets,
    )


def compose(caption: str, words: str, generator: np.random.Generator) -> Composed:
    """Put words into a caption: at its end, in the place of some of its words, or beside a fragment of it."""
    way = generator.random()
    joint = JOINTS[int(generator.integers(len(JOINTS)))]
    before, piece, after = cut_words(caption, SHORT, generator)
    if way < APPENDED or (way < APPENDED + INSERTED and not before + after):
        return Composed(f"{caption} {joint} {words}", caption)
    if way < APPENDED + INSERTED:
        return Composed(" ".join([*before, words, *after]), " ".join(before + after))
    rest = " ".join(piece)
    first, last = (rest, words) if generator.random() < 0.5 else (words, rest)
    return Composed(f"{first} {joint} {last}", rest)


def _piece(captions: Sequence[str], generator: np.random.Generator) -> str:
    """A few successive words of any caption."""
    return " ".join(cut_words(captions[int(generator.integers(len(captions)))], SHORT, generator)[1])
