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

from safeclip.encoders.embed import embed_texts
from safeclip.encoders.load import Encoder
from safeclip.training.objectives import Quadruplets
from safeclip.training.rows import Rows

LONGEST = 5  # words


def with_fragments(
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
