"""The teacher's files: right rows, right encoder; the nearest safe pair, streamed."""

from __future__ import annotations

import pytest
import torch
from torch.nn import functional as F

from safeclip.core.errors import DataError, ModelError
from safeclip.encoders.embed import Quadruplets, embed_quadruplets
from safeclip.encoders.teacher import read_teacher, write_teacher
from safeclip.training.rows import low_variance_direction, redirection_targets
from tests.training.tiny import tiny_table


@pytest.fixture
def written(encoder, tmp_path):
    table = tiny_table(9)
    embeddings = embed_quadruplets(encoder, table, batch_size=4)
    write_teacher(tmp_path / "train.safetensors", embeddings, table["id"].to_pylist(), encoder.digest)
    return tmp_path / "train.safetensors", table["id"].to_pylist(), embeddings


def test_embeddings_come_back_in_the_order_of_the_rows(written, encoder):
    path, ids, embeddings = written
    again = read_teacher(path, ids, encoder.digest)
    assert torch.equal(again.text_generated, embeddings.text_generated)
    assert again.image_safe.shape == (9, 16)
    assert torch.allclose(again.image_safe.norm(dim=1), torch.ones(9), atol=1e-5)


def test_other_rows_another_order_another_encoder_and_a_missing_file_are_refused(written, encoder):
    path, ids, _ = written
    with pytest.raises(DataError, match="other rows"):
        read_teacher(path, ids[::-1], encoder.digest)
    with pytest.raises(ModelError, match="another encoder"):
        read_teacher(path, ids, "0" * 64)
    with pytest.raises(DataError, match="run the embed_teacher stage"):
        read_teacher(path.with_name("none.safetensors"), ids, encoder.digest)


@pytest.mark.parametrize("block", [1, 7, 64])
def test_the_nearest_safe_pair_is_that_of_the_full_matrix_whatever_the_block(block):
    generator = torch.Generator().manual_seed(0)
    parts = [F.normalize(torch.randn(50, 8, generator=generator), dim=-1) for _ in range(4)]
    teacher = Quadruplets(*parts)
    full = teacher.text_generated @ teacher.text_safe.T + teacher.image_generated @ teacher.image_safe.T
    near = full.argmax(dim=1)
    text, image = redirection_targets(teacher, block=block)
    assert torch.equal(text, teacher.text_safe[near])
    assert torch.equal(image, teacher.image_safe[near])


@pytest.mark.parametrize("block", [7, 64])
def test_a_soft_target_is_the_weighted_mean_of_safe_pairs_and_the_nearest_when_sharp(block):
    generator = torch.Generator().manual_seed(0)
    teacher = Quadruplets(*(F.normalize(torch.randn(50, 8, generator=generator), dim=-1) for _ in range(4)))
    nearness = teacher.text_generated @ teacher.text_safe.T + teacher.image_generated @ teacher.image_safe.T
    weights = torch.exp(3.0 * nearness)
    expected = [weights @ items for items in (teacher.text_safe, teacher.image_safe)]
    for found, mean in zip(redirection_targets(teacher, 3.0, block), expected, strict=True):
        assert torch.allclose(found, F.normalize(mean, dim=-1), atol=1e-5)
    for found, nearest in zip(redirection_targets(teacher, 1e5), redirection_targets(teacher), strict=True):
        assert torch.allclose(found, nearest, atol=1e-4)


def test_the_low_variance_direction_is_a_unit_vector_that_the_teacher_hardly_uses():
    generator = torch.Generator().manual_seed(6)
    spectrum = torch.logspace(0, -3, 16)
    items = [torch.randn(200, 16, generator=generator) * spectrum for _ in range(4)]
    axis = low_variance_direction(Quadruplets(*items))
    assert axis.norm().item() == pytest.approx(1.0, abs=1e-5)
    everything = torch.cat(items)
    assert (everything @ axis).pow(2).mean() < 0.01 * everything.pow(2).sum(dim=1).mean()
    assert torch.equal(axis, low_variance_direction(Quadruplets(*items)))
