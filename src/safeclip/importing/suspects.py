"""Items that may be mislabelled: a caption fits its picture worse than others do, or is no safe one.

They are named in the report and kept, unless the caller drops them: a person decides.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch

from safeclip.encoders.embed import embed_images, embed_texts
from safeclip.encoders.load import Encoder
from safeclip.taxonomy import Taxonomy

OTHERS = 200  # captions that each picture is compared with
NEARER = (
    0.1  # share of them that may be nearer: finds 0.90 of swapped captions, and accuses none of 400 true ones
)
MOST = 0.25  # a larger share of suspects says something of the encoder, not of the data
_BLOCK = 256  # pictures in memory at once
_ARTICLES = ("a ", "an ", "the ")


def misfits(encoder: Encoder, images: Sequence[Path], captions: Sequence[str], seed: int) -> np.ndarray:
    """bool [N]: more than a tenth of the captions of `OTHERS` other rows are nearer to it than its own."""
    count = len(images)
    if count < 2:
        return np.zeros(count, dtype=bool)
    blocks = [images[start : start + _BLOCK] for start in range(0, count, _BLOCK)]
    pictures = torch.cat([embed_images(encoder, [path.read_bytes() for path in block]) for block in blocks])
    texts = embed_texts(encoder, captions)
    own = (pictures * texts).sum(1)
    shifts = np.random.default_rng(seed).permutation(count - 1)[:OTHERS] + 1
    rows = torch.arange(count)
    nearer = torch.zeros(count)
    for shift in shifts.tolist():
        nearer += (pictures * texts[(rows + shift) % count]).sum(1) > own
    return (nearer > NEARER * len(shifts)).numpy()


class UnsafeWords:
    """Finds the taxonomy's phrases in captions, by whole words."""

    def __init__(self, taxonomy: Taxonomy) -> None:
        self._categories = {_bare(phrase.text): phrase.categories[0] for phrase in taxonomy.phrases}
        longest_first = sorted(self._categories, key=lambda text: (-len(text), text))
        self._pattern = re.compile(rf"\b(?:{'|'.join(map(re.escape, longest_first))})\b")

    def category(self, caption: str) -> str | None:
        """The category of the first phrase that the caption names, or None."""
        found = self._pattern.search(caption.casefold())
        return self._categories[found.group()] if found else None


def _bare(phrase: str) -> str:
    """The phrase without its article."""
    text = phrase.casefold()
    for article in _ARTICLES:
        text = text.removeprefix(article)
    return text
