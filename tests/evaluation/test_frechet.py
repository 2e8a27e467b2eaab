"""The Frechet distance: nought for the same pictures, the closed form for Gaussians, silent on too few."""

from __future__ import annotations

import pytest
import torch

from safeclip.core.errors import DataError
from safeclip.evaluation.generation import frechet_distance


def sample(count: int, width: int, seed: int) -> torch.Tensor:
    return torch.randn(count, width, generator=torch.Generator().manual_seed(seed))


def test_the_same_embeddings_are_at_no_distance() -> None:
    real = sample(200, 8, 1)
    assert frechet_distance(real, real) == pytest.approx(0, abs=1e-4)


def test_shift_and_spread_add_up_as_in_the_closed_form() -> None:
    real = sample(300, 4, 1)
    centred = real - real.mean(dim=0)
    spread = float(centred.double().T.cov().trace())
    drawn = real.mean(dim=0) + 3 * centred + torch.tensor([2.0, 0.0, 0.0, 0.0])
    # |m - m'|^2 + tr(S + 9 S - 2 * 3 S) = 4 + 4 tr(S)
    assert frechet_distance(real, drawn) == pytest.approx(4 + 4 * spread, rel=1e-4)


@pytest.mark.parametrize("counts", [(8, 100), (100, 8)])
def test_no_more_pictures_than_dimensions_give_no_number(counts: tuple[int, int]) -> None:
    assert frechet_distance(sample(counts[0], 8, 1), sample(counts[1], 8, 2)) is None


def test_embeddings_of_two_encoders_are_refused() -> None:
    with pytest.raises(DataError, match="width 8 and 4 do not compare"):
        frechet_distance(sample(20, 8, 1), sample(20, 4, 2))
