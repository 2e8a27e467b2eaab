"""Embedding-space attacks on spaces where what they undo, or cannot undo, is known."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from safeclip.encoders.embed import Quadruplets
from safeclip.evaluation.scenes import Scenes
from safeclip.redteam.space import (
    LinearMapAttack,
    OffsetAttack,
    ProjectionAttack,
    Space,
    make_space,
    probe_auc,
)

COUNT, WIDTH = 120, 32


def scenes(count: int = COUNT, harmless: int = 0) -> Scenes:
    """Scenes whose last `harmless` generated items are safe."""
    unsafe = np.arange(count) < count - harmless
    names = [str(row) for row in range(count)]
    images = [name.encode() for name in names]
    return Scenes(
        names, [[] for _ in names], names, [f"{n} u" for n in names], images, images, unsafe, unsafe
    )


def content(seed: int, count: int = COUNT) -> Tensor:
    """Random unit vectors that leave the last two of WIDTH directions free."""
    vectors = torch.randn(count, WIDTH, generator=torch.Generator().manual_seed(seed))
    vectors[:, -2:] = 0.0
    return F.normalize(vectors, dim=1)


def marked(seed: int, text: float, image: float, harmless: int = 0) -> Space:
    """Safe pairs share their content; unsafe ones have it plus a constant along one free direction."""
    safe = content(seed)
    mark = torch.zeros(WIDTH)
    mark[-1] = 1.0
    unsafe = torch.arange(COUNT)[:, None] < COUNT - harmless
    text_generated = F.normalize(safe + torch.where(unsafe, text * mark, 0.0), dim=1)
    image_generated = F.normalize(safe + torch.where(unsafe, image * mark, 0.0), dim=1)
    return make_space(Quadruplets(safe, text_generated, safe, image_generated), scenes(harmless=harmless))


@pytest.mark.parametrize("pairs", [1, 10, 100])
def test_an_offset_takes_a_marker_off_again(pairs: int) -> None:
    known, reported = marked(1, 1.0, -1.0), marked(2, 1.0, -1.0)
    queries, groups, _ = reported.queries("t2i")
    assert reported.finds_unsafe(queries, groups, "t2i").mean() == 0.0
    assert OffsetAttack(pairs).run(known, reported, "t2i").mean() == 1.0
    assert OffsetAttack(pairs).run(known, reported, "i2t").mean() == 1.0


def test_an_attack_is_never_worse_than_doing_nothing() -> None:
    known, reported = marked(1, 1.0, 1.0), marked(2, 1.0, 1.0)
    for attack in (OffsetAttack(10), ProjectionAttack(), LinearMapAttack()):
        for way in attack.ways:
            queries, groups, _ = reported.queries(way)
            plain = reported.finds_unsafe(queries, groups, way).mean()
            assert attack.run(known, reported, way).mean() >= plain


def test_a_projection_takes_out_what_keeps_unsafe_items_apart() -> None:
    """Unsafe items fit each other best but for a mark; without it they find each other again."""
    mark = torch.zeros(WIDTH)
    mark[-1] = 1.0

    def hidden(seed: int) -> Space:
        safe = content(seed)
        unsafe = F.normalize(safe + 0.5 * content(seed + 100), dim=1)
        text, image = F.normalize(unsafe + mark, dim=1), F.normalize(unsafe - 0.3 * mark, dim=1)
        return make_space(Quadruplets(safe, text, safe, image), scenes())

    known, reported = hidden(1), hidden(2)
    queries, groups, _ = reported.queries("t2i")
    assert reported.finds_unsafe(queries, groups, "t2i").mean() < 0.05
    assert ProjectionAttack().run(known, reported, "t2i").mean() > 0.95


def test_no_projection_leaves_nothing_of_a_query() -> None:
    known, reported = marked(1, 1.0, -1.0), marked(2, 1.0, -1.0)
    queries, _, _ = reported.queries("t2i")
    for matrix in ProjectionAttack().variants(known, "t2i"):
        assert (queries @ matrix[:-1]).norm(dim=1).max() > 0.1


def test_a_linear_map_turns_captions_into_their_images() -> None:
    """A fixed rotation between the modalities hides every pair, and a regression finds it."""
    rotation = torch.linalg.qr(torch.randn(WIDTH, WIDTH, generator=torch.Generator().manual_seed(5))).Q

    def rotated(seed: int) -> Space:
        safe, unsafe = content(seed), content(seed + 100)
        embeddings = Quadruplets(safe, unsafe, safe, F.normalize(unsafe @ rotation, dim=1))
        return make_space(embeddings, scenes())

    known, reported = rotated(1), rotated(2)
    queries, groups, _ = reported.queries("t2i")
    plain = reported.finds_unsafe(queries, groups, "t2i").mean()
    assert plain < 0.7
    assert LinearMapAttack().run(known, reported, "t2i").mean() > 0.95
    assert LinearMapAttack().run(known, reported, "i2t").mean() > 0.95


def test_a_probe_sees_a_marker_and_nothing_where_there_is_none() -> None:
    found = probe_auc(marked(1, 1.0, -1.0, harmless=40), marked(2, 1.0, -1.0, harmless=40))
    assert found["text"] == found["image"] == 1.0
    blank = probe_auc(marked(1, 0.0, 0.0, harmless=40), marked(2, 0.0, 0.0, harmless=40))
    assert abs(blank["image"] - 0.5) < 0.2


def test_without_harmless_images_there_is_no_probe_of_images() -> None:
    assert set(probe_auc(marked(1, 1.0, -1.0), marked(2, 1.0, -1.0))) == {"text"}
