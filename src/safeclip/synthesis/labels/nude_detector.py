"""Image labels from NudeNet, a detector of body parts in photos whose weights come with its package."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from safeclip.encoders.load import decode_image
from safeclip.errors import ModelError


class NudityImageLabeller:
    """The surest detection of a class that counts as unsafe; 0 if there is none."""

    def __init__(self, unsafe: Sequence[str]) -> None:
        import nudenet.nudenet as package

        known = package.__dict__["__labels"]
        unknown = [name for name in unsafe if name not in known]
        if unknown or not unsafe:
            named = f"no class {unknown[0]!r}" if unknown else "no class named as unsafe"
            raise ModelError(f"nudity: {named}; name some of {', '.join(sorted(known))}")
        self._unsafe = frozenset(unsafe)
        self._detector = package.NudeDetector()

    def score(self, items: Sequence[bytes]) -> np.ndarray:
        """Score of the surest unsafe detection, float32 [N]; `DataError` names a broken picture."""
        scores = np.zeros(len(items), np.float32)
        for row, data in enumerate(items):
            pixels = np.asarray(decode_image(data, row))[:, :, ::-1]  # the detector takes BGR
            found = self._detector.detect(np.ascontiguousarray(pixels))
            scores[row] = max((hit["score"] for hit in found if hit["class"] in self._unsafe), default=0.0)
        return scores
