"""Whom the red team attacks with what: unsafe queries, a model with its galleries, the shape of an attack."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal, Protocol
from zlib import crc32

import numpy as np
import torch
from open_clip.transform import PreprocessCfg
from torch import Tensor

from safeclip.core.errors import DataError
from safeclip.encoders.embed import Quadruplets
from safeclip.encoders.load import Encoder
from safeclip.evaluation.scenes import Scenes, embed_scenes
from safeclip.metrics.retrieval import MixedGallery, mixed_gallery

Access = Literal["blind", "black box", "white box"]
"""What an attack is given of the model: nothing, its embeddings, its gradients."""
_WORD = re.compile(r"\w+")


@dataclass(frozen=True)
class Query:
    """An unsafe item of scene `row` that is asked for: caption and picture, and the scene's safe caption.

    `concept` is the phrase that made the caption unsafe.
    """

    row: int
    id: str
    caption: str
    image: bytes
    safe: str
    concept: str
    categories: tuple[str, ...]

    @property
    def added(self) -> tuple[str, ...]:
        """The words that the safe caption lacks; all words where it lacks none. What there is to hide."""
        known = {word.lower() for word in _WORD.findall(self.safe)}
        words = tuple(word for word in _WORD.findall(self.caption) if word.lower() not in known)
        return words or tuple(_WORD.findall(self.caption))

    def generator(self, seed: int, attack: str) -> np.random.Generator:
        """Randomness that depends on this query and attack alone."""
        return np.random.default_rng([seed, crc32(attack.encode()), crc32(self.id.encode())])


@dataclass(frozen=True)
class Galleries:
    """The mixed galleries of one model over some scenes: unsafe items first, see evaluation.retrieval."""

    images: MixedGallery
    texts: MixedGallery


@dataclass(frozen=True)
class Tuning:
    """The half of the scenes that attacks may see, as one model embeds it."""

    scenes: Scenes
    embeddings: Quadruplets
    galleries: Galleries


@dataclass(frozen=True)
class Victim:
    """A model under attack. `reported` is what success is measured on, `tuned_on` what an attack may see."""

    name: str
    encoder: Encoder
    reported: Galleries
    tuned_on: Tuning | None = None


class TextAttack(Protocol):
    """Other wordings of each query's caption, `budget` of them at most."""

    name: str
    access: Access
    budget: int

    def captions(self, queries: Sequence[Query], victim: Victim) -> list[list[str]]: ...


class ImageAttack(Protocol):
    """Other pictures (PNG or JPEG bytes) for each query's picture, `budget` of them at most."""

    name: str
    access: Access
    budget: int

    def pictures(self, queries: Sequence[Query], victim: Victim) -> list[list[bytes]]: ...


class GalleryAttack(Protocol):
    """A picture (PNG bytes) that is put into the gallery, to come first for whatever is asked."""

    name: str
    access: Access
    budget: int

    def item(self, victim: Victim) -> bytes: ...


class WeightAttack(Protocol):
    """The victim's encoder after its weights were changed."""

    name: str
    access: Access
    budget: int

    def retrained(self, victim: Victim) -> Encoder: ...


AnyAttack = TextAttack | ImageAttack | GalleryAttack | WeightAttack


def halves(scenes: int, limit: int) -> tuple[np.ndarray, np.ndarray]:
    """Rows that are reported on and rows that attacks tune on: every second one, `limit` at most of each."""
    rows = np.arange(scenes)
    return rows[0::2][:limit], rows[1::2][:limit]


def unsafe_queries(scenes: Scenes, concepts: Sequence[str], unsafe: np.ndarray, limit: int) -> list[Query]:
    """The first `limit` scenes that `unsafe` [N] marks, as queries."""
    return [
        Query(
            row=int(row),
            id=scenes.ids[row],
            caption=scenes.captions_generated[row],
            image=scenes.images_generated[row],
            safe=scenes.captions_safe[row],
            concept=concepts[row],
            categories=tuple(sorted(scenes.categories[row])),
        )
        for row in np.flatnonzero(unsafe)[:limit]
    ]


def select(scenes: Scenes, rows: np.ndarray) -> Scenes:
    """Some scenes of many, in the order of `rows`."""
    picked: dict[str, Any] = {
        name: value[rows] if isinstance(value, np.ndarray) else [value[row] for row in rows]
        for name, value in vars(scenes).items()
    }
    return Scenes(**picked)


def galleries(encoder: Encoder, scenes: Scenes, batch_size: int, who: str) -> Galleries:
    """Embed all four items of every scene; `DataError` if an embedding is not finite."""
    return build_galleries(embed_scenes(encoder, scenes, batch_size), scenes, who)


def tuning(encoder: Encoder, scenes: Scenes, batch_size: int, who: str) -> Tuning:
    """What attacks may see of `scenes` under one model."""
    embeddings = embed_scenes(encoder, scenes, batch_size)
    return Tuning(scenes, embeddings, build_galleries(embeddings, scenes, who))


def build_galleries(embeddings: Quadruplets, scenes: Scenes, who: str) -> Galleries:
    """The mixed galleries of embedded scenes."""
    e = embeddings
    for name, value in vars(e).items():
        require_finite(value, f"{who}, {name}")
    return Galleries(
        images=mixed_gallery(e.image_safe, e.image_generated, scenes.image_unsafe),
        texts=mixed_gallery(e.text_safe, e.text_generated, scenes.text_unsafe),
    )


def require_finite(embeddings: Tensor, what: str) -> None:
    """`DataError` that names the first row of `embeddings` [N, D] that holds no number."""
    broken = ~embeddings.isfinite().all(dim=1)
    if broken.any():
        first = int(broken.int().argmax())
        raise DataError(
            f"{what}: embedding {first} is not finite ({int(broken.sum())} such); mend the encoder"
        )


def tuning_half(victim: Victim) -> Tuning:
    """What an attack may see; `DataError` if the data left nothing for it."""
    if victim.tuned_on is None:
        raise DataError("there is no second half of the scenes to tune on; raise `data.test`")
    return victim.tuned_on


def margin(queries: Tensor, gallery: MixedGallery) -> Tensor:
    """[Q] for queries [Q, D]: the best unsafe item's cosine minus the best other item's."""
    scores = queries @ gallery.items.T
    return scores[:, : gallery.unsafe].amax(dim=1) - scores[:, gallery.unsafe :].amax(dim=1)


def colour_scale(encoder: Encoder) -> tuple[Tensor, Tensor]:
    """Mean and standard deviation, [3, 1, 1] each: encoder input = (colours in [0, 1] - mean) / deviation."""
    how = PreprocessCfg(**encoder.model.visual.preprocess_cfg)
    return torch.tensor(how.mean)[:, None, None], torch.tensor(how.std)[:, None, None]


def perturb(start: Tensor, gradient: Tensor, now: Tensor, step: float, bound: float) -> Tensor:
    """One step up the gradient's sign, back into `bound` around `start` and into [0, 1]."""
    moved = now + step * gradient.sign()
    return torch.clamp(torch.minimum(torch.maximum(moved, start - bound), start + bound), 0.0, 1.0)
