"""What a labeller is: items in, scores out."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

import numpy as np


class TextLabeller(Protocol):
    """Score in [0, 1] of each caption, higher for unsafe, float32 [N]."""

    def score(self, items: Sequence[str]) -> np.ndarray: ...


class ImageLabeller(Protocol):
    """Score in [0, 1] of each picture (PNG or JPEG bytes), higher for unsafe, float32 [N].

    A `DataError` names the index of a picture that does not decode.
    """

    def score(self, items: Sequence[bytes]) -> np.ndarray: ...
