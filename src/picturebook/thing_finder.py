"""Whether a picture shows a certain thing of the picture book, by the glyph classifier.

Its logits of different things do not compare, and a picture of one thing is no scene: what counts as found is
what hardly ever is in pictures, drawn here, that do not show it.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence

import numpy as np
import torch
from torch import Tensor

from picturebook.drawing import draw
from picturebook.glyph_classifier import CLASSIFIER, GlyphClassifier, load_classifier, pixels
from picturebook.grammar import single_scene
from safeclip.core.artifacts import DataFolder

SPECIFICITY = 0.99
_DRAWINGS, _SEED, _BATCH = 512, 0, 256


class ThingFinder:
    """Finds things by name; one in a hundred that are not drawn is found all the same."""

    def __init__(self, data: DataFolder) -> None:
        """Load the data folder's classifier; `ModelError` if it cannot be used."""
        self._classifier = classifier = load_classifier(data.root / CLASSIFIER)
        rng = np.random.default_rng(_SEED)
        scenes = [single_scene(rng) for _ in range(_DRAWINGS)]
        drawn = [draw(scene.caption, "photo", row).png for row, scene in enumerate(scenes)]
        self._least = least_logit(classifier, self._logits(drawn), [scene.names for scene in scenes])

    def __call__(self, pictures: Sequence[bytes], things: Sequence[str]) -> np.ndarray:
        """Look for each row's thing in its image (PNG or JPEG bytes): bool [N], whether it is there."""
        if not pictures:
            return np.zeros(0, bool)
        logits = self._logits(pictures)
        asked = torch.tensor([self._classifier.names.index(thing) for thing in things])
        return (logits.gather(1, asked[:, None])[:, 0] > self._least).numpy()

    @torch.no_grad()
    def _logits(self, pictures: Sequence[bytes]) -> Tensor:
        parts = [
            self._classifier(torch.stack([pixels(data, start + at) for at, data in enumerate(batch)]))
            for start in range(0, len(pictures), _BATCH)
            if (batch := pictures[start : start + _BATCH])
        ]
        return torch.cat(parts)


def least_logit(classifier: GlyphClassifier, logits: Tensor, drawn: Sequence[Collection[str]]) -> float:
    """The logit [N, names] above which a thing is found: `SPECIFICITY` of those not `drawn` lie below."""
    absent = torch.tensor([[name not in names for name in classifier.names] for names in drawn])
    return float(logits[absent].quantile(SPECIFICITY))
