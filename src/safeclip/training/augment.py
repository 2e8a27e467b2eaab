"""Text augmentation of the training rows: crop safe captions, and insert concepts into them.

Neither needs a rewriter or a label: the teacher embeds the new captions, and the label follows from what was
inserted.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

from safeclip.encoders.embed import embed_texts
from safeclip.encoders.load import Encoder
from safeclip.training.rows import Rows

LONGEST_CROP = 5  # words
LONGEST_PIECE = 4  # words that an insertion replaces, or takes from another caption
JOINTS = ("and", "with", "next to", "near", "beside", "behind", "in front of", "by", ",")
# shares of the ways to insert words: at the end, in place of some words; else the words join a crop
APPENDED, REPLACING = 0.4, 0.4


@dataclasses.dataclass(frozen=True)
class Insertion:
    """A caption with inserted words, and what it keeps of the safe caption (never empty)."""

    text: str
    rest: str


def crop_captions(
    rows: Rows, captions: Sequence[str], encoder: Encoder, *, share: float, draws: int, seed: int
) -> Rows:
    """Repeat the rows `draws` times, each time with another `share` of the safe captions cropped.

    Training sees whole scenes; zero-shot prompts name one thing. With whole captions alone the text tower is
    held where scenes lie and drifts where single words do: zero-shot fell from 0.97 to 0.86, with crops to
    0.96. The teacher's embedding of a crop is its target, so no caption has to be written for it.

    `captions` are the rows' safe ones, in order. Images are not copied; redirection targets stay those of the
    whole captions. With a share of 0 the rows are returned as they are.
    """
    count = round(share * len(rows))
    if count == 0:
        return rows
    repeated = _repeat(rows, draws)
    generator = np.random.default_rng(seed)
    cropped = np.concatenate(
        [draw * len(rows) + np.sort(generator.permutation(len(rows))[:count]) for draw in range(draws)]
    )
    crops = [" ".join(cut_words(captions[row % len(rows)], LONGEST_CROP, generator)[1]) for row in cropped]
    repeated.tokens_safe[cropped] = encoder.tokenizer(crops)
    repeated.teacher.text_safe[cropped] = embed_texts(encoder, crops)
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
        image_index=repeated(rows.image_index),
        teacher=rows.teacher.map(repeated),
        target_text=repeated(rows.target_text),
        target_image=repeated(rows.target_image),
    )


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
    """Replace shares of the generated captions by safe captions with words inserted, anew in every pass.

    A rewriter's captions name each concept a few times, together with much else, and some labels are wrong.
    To learn which *words* are unsafe the text tower needs each of them often, in many surroundings. Positives
    hold a phrase of the taxonomy. They are labelled unsafe and redirected to the teacher's embedding of what
    is left of the safe caption. Controls hold words of another safe caption. They are labelled safe: without
    them the tower learns that a caption looks edited.

    Args:
        rows: one or more passes over the same rows.
        captions: the safe captions of one pass, in order.
        phrases: what makes a caption unsafe.
        positive, control: shares of the generated captions; they sum to at most 1.

    The row's images stay. They do not show what the new caption says.
    """
    n_positive, n_control = round(positive * len(captions)), round(control * len(captions))
    if not n_positive + n_control:
        return rows
    generator = np.random.default_rng((seed, 1))
    passes = range(0, len(rows), len(captions))
    orders = [start + generator.permutation(len(captions)) for start in passes]
    positives = np.concatenate([order[:n_positive] for order in orders]).tolist()
    controls = np.concatenate([order[n_positive : n_positive + n_control] for order in orders]).tolist()

    words = [phrases[place % len(phrases)] for place in range(len(positives))]
    for _ in controls:
        source = captions[int(generator.integers(len(captions)))]
        words.append(" ".join(cut_words(source, LONGEST_PIECE, generator)[1]))
    replaced = positives + controls
    insertions = [
        insert(captions[row % len(captions)], inserted, generator)
        for row, inserted in zip(replaced, words, strict=True)
    ]

    texts = [insertion.text for insertion in insertions]
    tokens, labels = rows.tokens_generated.clone(), rows.text_unsafe.clone()
    embedded, targets = rows.teacher.text_generated.clone(), rows.target_text.clone()
    tokens[replaced], embedded[replaced] = encoder.tokenizer(texts), embed_texts(encoder, texts)
    labels[positives], labels[controls] = True, False
    if positives:
        rests = [insertion.rest for insertion in insertions[: len(positives)]]
        targets[positives] = embed_texts(encoder, rests)
    return dataclasses.replace(
        rows,
        tokens_generated=tokens,
        text_unsafe=labels,
        teacher=dataclasses.replace(rows.teacher, text_generated=embedded),
        target_text=targets,
    )


def insert(caption: str, words: str, generator: np.random.Generator) -> Insertion:
    """Put words into a caption: at its end, in place of some of its words, or beside a crop of it."""
    way = generator.random()
    joint = JOINTS[int(generator.integers(len(JOINTS)))]
    before, piece, after = cut_words(caption, LONGEST_PIECE, generator)
    if way < APPENDED or (way < APPENDED + REPLACING and not before + after):
        return Insertion(f"{caption} {joint} {words}", caption)
    if way < APPENDED + REPLACING:
        return Insertion(" ".join([*before, words, *after]), " ".join(before + after))
    rest = " ".join(piece)
    first, last = (rest, words) if generator.random() < 0.5 else (words, rest)
    return Insertion(f"{first} {joint} {last}", rest)


def cut_words(
    caption: str, longest: int, generator: np.random.Generator
) -> tuple[list[str], list[str], list[str]]:
    """Split a caption into the words before, in and after a random piece of 1 to `longest` words."""
    words = caption.split()
    length = int(generator.integers(1, min(longest, len(words)) + 1))
    start = int(generator.integers(len(words) - length + 1))
    return words[:start], words[start : start + length], words[start + length :]
