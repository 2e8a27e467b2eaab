"""Shared parts: a tiny encoder, and rows of both splits prepared for it."""

from __future__ import annotations

import pytest

from safeclip.training.rows import prepare_rows
from safeclip.training.teacher import embed_quadruplets
from tests.training.tiny import tiny_encoder, tiny_table


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
