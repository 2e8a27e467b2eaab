"""Shared parts: a tiny encoder, and rows of both splits prepared for it."""

from __future__ import annotations

import pytest
import torch

from safeclip.encoders.embed import embed_quadruplets
from safeclip.training.rows import prepare_rows
from tests.training.tiny import tiny_encoder, tiny_table


@pytest.fixture(autouse=True)
def one_thread():
    """Tiny models are slower on several threads, and sums change their order."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture
def encoder(tmp_path):
    return tiny_encoder(tmp_path / "base")


@pytest.fixture
def splits(encoder, tmp_path):
    """(train, val) rows."""

    def rows(split: str, count: int):
        table = tiny_table(count, split)
        return prepare_rows(encoder, table, embed_quadruplets(encoder, table, 8), tmp_path / f"{split}.npy")

    return rows("train", 24), rows("val", 12)
