"""How far drawn pictures as a whole lie from real ones: the Frechet distance of their CLIP embeddings.

The distance of FID (Heusel et al., arXiv 1706.08500, eq. 6), computed by torchmetrics, on the base encoder's
image embeddings in place of Inception's features, as CMMD and others argue (arXiv 2401.09603); so its numbers
are no FID and compare with each other alone.
"""

from __future__ import annotations

from torch import Tensor, nn

from safeclip.errors import DataError


class _Embedded(nn.Module):
    """The feature extractor of torchmetrics' FID where the features are there already."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.num_features = width

    def forward(self, embeddings: Tensor) -> Tensor:
        return embeddings


def frechet_distance(real: Tensor, drawn: Tensor) -> float | None:
    """Between the Gaussians of real [N, D] and drawn [M, D] embeddings; 0 is equal.

    None where N or M is not above D: a covariance of less than full rank says more about the number of
    pictures than about the pictures. `DataError` if the widths differ.
    """
    if real.shape[1] != drawn.shape[1]:
        raise DataError(
            f"embeddings of width {real.shape[1]} and {drawn.shape[1]} do not compare; use one encoder"
        )
    if min(len(real), len(drawn)) <= real.shape[1]:
        return None
    from torchmetrics.image.fid import FrechetInceptionDistance

    distance = FrechetInceptionDistance(feature=_Embedded(real.shape[1]))
    distance.update(real, real=True)
    distance.update(drawn, real=False)
    return max(0.0, round(float(distance.compute()), 6))
