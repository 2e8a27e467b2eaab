"""Streaming top-k: the same answer as sorting everything, and a clear line where there is none."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from safeclip.core.errors import DataError
from safeclip.metrics.topk import topk


def full_sort(queries: torch.Tensor, gallery: torch.Tensor, k: int) -> tuple[torch.Tensor, torch.Tensor]:
    scores, indices = (queries @ gallery.T).sort(dim=1, descending=True, stable=True)
    return scores[:, :k], indices[:, :k]


@settings(deadline=None, max_examples=150)
@given(
    seed=st.integers(0, 10_000),
    rows=st.integers(1, 60),
    k=st.integers(1, 25),
    block=st.integers(1, 70),
    levels=st.integers(1, 4),
)
def test_equals_a_full_stable_sort_with_many_ties(
    seed: int, rows: int, k: int, block: int, levels: int
) -> None:
    # Small whole numbers: products are exact, so that equal scores are equal whatever the block.
    generator = torch.Generator().manual_seed(seed)
    gallery = torch.randint(-levels, levels + 1, (rows, 3), generator=generator).float()
    queries = torch.randint(-levels, levels + 1, (5, 3), generator=generator).float()
    scores, indices = topk(queries, gallery, k, block=block, query_block=2)
    expected_scores, expected_indices = full_sort(queries, gallery, k)
    assert torch.equal(scores, expected_scores)
    assert torch.equal(indices, expected_indices)


def test_random_embeddings_give_the_same_neighbours_in_any_block() -> None:
    torch.manual_seed(1)
    gallery = torch.nn.functional.normalize(torch.randn(3000, 32), dim=1)
    queries = torch.nn.functional.normalize(torch.randn(40, 32), dim=1)
    expected = full_sort(queries, gallery, 20)[1]
    for block in (7, 512, 5000):
        assert torch.equal(topk(queries, gallery, 20, block=block)[1], expected)


@settings(deadline=None, max_examples=60)
@given(
    seed=st.integers(0, 10_000),
    queries=st.integers(1, 40),
    rows=st.integers(1, 300),
    width=st.sampled_from([1, 3, 16, 100]),
    k=st.integers(1, 40),
    spread=st.sampled_from([0.0, 1e-6, 1e-3, 0.1, 1.0]),
    scale=st.sampled_from([1e-20, 1e-3, 1.0, 1e6, 1e25]),
)
def test_no_neighbour_is_lost_to_rounding(
    seed: int, queries: int, rows: int, width: int, k: int, spread: float, scale: float
) -> None:
    """Rows all but equal, of any length: near ties, which the fast products cannot tell apart."""
    generator = torch.Generator().manual_seed(seed)
    centre = torch.randn(1, width, generator=generator)
    gallery = scale * (centre + spread * torch.randn(rows, width, generator=generator))
    gallery = gallery[torch.randint(rows, (rows,), generator=generator)]  # some rows twice
    asked = centre + torch.randn(queries, width, generator=generator)
    scores, indices = topk(asked, gallery, k, block=128)
    exact = asked.double() @ gallery.double().T
    best = exact.sort(dim=1, descending=True).values[:, :k]
    slack = 1e-6 * asked.norm(dim=1, keepdim=True) * gallery.norm(dim=1).max() + 1e-37
    assert ((exact.gather(1, indices) - best).abs() <= slack).all()
    assert ((scores - best).abs() <= slack).all()
    for found, of_query in zip(scores, indices, strict=True):  # equal scores in index order
        assert all(
            a > b or i < j for a, b, i, j in zip(found, found[1:], of_query, of_query[1:], strict=False)
        )


def test_equal_rows_tie_in_any_block_and_any_batch() -> None:
    generator = torch.Generator().manual_seed(3)
    row, queries = torch.randn(1, 100, generator=generator), torch.randn(20, 100, generator=generator)
    gallery = torch.cat([torch.randn(2500, 100, generator=generator), row.expand(2500, 100)])
    expected = topk(queries, gallery, 30)
    for block in (130, 700):
        found = topk(queries[:9], gallery, 30, block=block)
        assert torch.equal(found[0], expected[0][:9])
        assert torch.equal(found[1], expected[1][:9])
    alone = torch.cat([topk(query[None], gallery, 30)[1] for query in queries])
    assert torch.equal(alone, expected[1])


def test_the_lowest_index_wins_among_equals() -> None:
    _, indices = topk(torch.ones(2, 4), torch.ones(100, 4), 5, block=8)
    assert indices.tolist() == [[0, 1, 2, 3, 4]] * 2


def test_a_gallery_smaller_than_k_is_returned_whole() -> None:
    scores, indices = topk(torch.tensor([[1.0, 0.0]]), torch.tensor([[0.0, 1.0], [1.0, 0.0]]), 20)
    assert indices.tolist() == [[1, 0]]
    assert scores.tolist() == [[1.0, 0.0]]


def test_a_memory_mapped_gallery_is_the_same_gallery(tmp_path: Path) -> None:
    torch.manual_seed(2)
    gallery, queries = torch.randn(200, 8), torch.randn(3, 8)
    np.save(tmp_path / "gallery.npy", gallery.numpy())
    mapped = np.load(tmp_path / "gallery.npy", mmap_mode="r")
    assert torch.equal(topk(queries, mapped, 5, block=64)[1], topk(queries, gallery, 5)[1])


def test_no_query_gives_no_row() -> None:
    scores, indices = topk(torch.empty(0, 4), torch.ones(3, 4), 2)
    assert scores.shape == indices.shape == (0, 2)


@pytest.mark.parametrize(
    ("queries", "gallery", "k", "line"),
    [
        (torch.ones(1, 4), torch.ones(0, 4), 1, "gallery is empty"),
        (torch.ones(1, 4), torch.ones(2, 3), 1, "do not fit"),
        (torch.ones(4), torch.ones(2, 4), 1, "do not fit"),
        (torch.ones(1, 4), torch.ones(2, 4), 0, "at least one"),
        (torch.full((1, 4), torch.nan), torch.ones(2, 4), 1, "query embedding is not finite"),
        (torch.ones(1, 4), torch.tensor([[1.0] * 4, [torch.inf, -torch.inf, 0.0, 0.0]]), 1, "rows 0 to 1"),
    ],
)
def test_what_cannot_be_ranked_is_one_clear_line(
    queries: torch.Tensor, gallery: torch.Tensor, k: int, line: str
) -> None:
    with pytest.raises(DataError, match=line):
        topk(queries, gallery, k)
