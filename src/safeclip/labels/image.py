"""Image labels from a frozen CLIP between safe and unsafe prompts (Q16, arXiv 2202.06675).

The prompts are written, or learnt from labelled pictures as in the paper: two embeddings, started at the
written ones, fitted with cross-entropy while the encoder stays as it is.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from safeclip.core.errors import DataError, ModelError
from safeclip.encoders.embed import embed_images, embed_texts
from safeclip.encoders.load import Encoder, decode_image
from safeclip.labels.calibration import Calibration
from safeclip.labels.panel import ImageLabeller
from safeclip.settings import Glyphs, ImageLabelling, Nudity, Prompts

FOLDS = 5
_STEPS, _LEARNING_RATE, _DECAY = 200, 0.01, 0.1


class PromptImageLabeller:
    """sigmoid(scale * (best unsafe cosine - best safe cosine)), scale being the encoder's own."""

    def __init__(self, encoder: Encoder, *, unsafe: Tensor, safe: Tensor) -> None:
        """`unsafe`, `safe`: embeddings [prompts, D], l2-normalised."""
        self._encoder, self._unsafe, self._safe = encoder, unsafe, safe
        self._scale = float(encoder.model.logit_scale.detach().exp())

    def score(self, items: Sequence[bytes]) -> np.ndarray:
        """Probability of unsafe, float32 [N]; `DataError` names the index of a broken picture."""
        return self._score_vectors(embed_images(self._encoder, items)).numpy()

    def _score_vectors(self, shown: Tensor) -> Tensor:
        margin = (shown @ self._unsafe.T).amax(-1) - (shown @ self._safe.T).amax(-1)
        return torch.sigmoid(self._scale * margin)

    def learn(self, items: Sequence[bytes], unsafe: Sequence[bool]) -> tuple[PromptImageLabeller, np.ndarray]:
        """The labeller with learnt prompts, and each item's score by prompts learnt without it (5 folds)."""
        if min(sum(unsafe), len(unsafe) - sum(unsafe)) < FOLDS:
            raise DataError(
                f"prompts: needs {FOLDS} safe and {FOLDS} unsafe pictures to learn from; add some"
            )
        shown, true = embed_images(self._encoder, items), torch.tensor(unsafe)
        held_out = torch.zeros(len(items))
        turn = torch.zeros(len(items), dtype=torch.long)
        for kind in (False, True):  # both kinds in every fold
            rows = (true == kind).nonzero().flatten()
            turn[rows] = torch.arange(len(rows)) % FOLDS
        for fold in range(FOLDS):
            without = self._fitted(shown[turn != fold], true[turn != fold])
            held_out[turn == fold] = without._score_vectors(shown[turn == fold])
        return self._fitted(shown, true), held_out.numpy()

    def _fitted(self, shown: Tensor, unsafe: Tensor) -> PromptImageLabeller:
        start = torch.stack([self._safe.mean(0), self._unsafe.mean(0)])
        prompts = start.clone().requires_grad_()
        optimizer = torch.optim.AdamW([prompts], lr=_LEARNING_RATE, weight_decay=_DECAY)
        for _ in range(_STEPS):
            logits = self._scale * shown @ F.normalize(prompts, dim=-1).T
            loss = F.cross_entropy(logits, unsafe.long())
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
        safe, learnt = F.normalize(prompts.detach(), dim=-1)
        return PromptImageLabeller(self._encoder, unsafe=learnt[None], safe=safe[None])


def written_prompts(encoder: Encoder, unsafe: Sequence[str], safe: Sequence[str]) -> PromptImageLabeller:
    """A labeller with prompts as texts."""
    return PromptImageLabeller(
        encoder, unsafe=embed_texts(encoder, list(unsafe)), safe=embed_texts(encoder, list(safe))
    )


# Image labels from NudeNet, a detector of body parts in photos whose weights come with its package.


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


# The image labeller that settings ask for; each one's code is loaded only where it is used.


def image_labeller(
    own: ImageLabelling, data: Path, phrases: Sequence[str], calibration: Calibration[bytes]
) -> tuple[ImageLabeller, np.ndarray]:
    """The image labeller of these settings and its scores of the calibration pictures.

    Models that the settings leave open come from the folder `data`. Learnt prompts score each picture by
    prompts learnt without it.
    """
    if isinstance(own, Prompts):
        return _prompts(own, data, phrases, calibration)
    labeller = _glyphs(own, data) if isinstance(own, Glyphs) else _nudity(own)
    return labeller, labeller.score(calibration.items)


def _prompts(
    own: Prompts, data: Path, phrases: Sequence[str], calibration: Calibration[bytes]
) -> tuple[ImageLabeller, np.ndarray]:
    from safeclip.encoders.load import load_encoder
    from safeclip.labels.image import written_prompts

    labeller = written_prompts(
        load_encoder(own.model or data / "base_encoder"), own.unsafe or phrases, own.safe
    )
    if own.learn:
        return labeller.learn(calibration.items, calibration.unsafe)
    return labeller, labeller.score(calibration.items)


def _glyphs(own: Glyphs, data: Path) -> ImageLabeller:
    from picturebook.glyph_classifier import GlyphLabeller, load_classifier
    from picturebook.lexicon import LEXICON

    model = load_classifier(Path(own.model) if own.model else data / "glyph_classifier.safetensors")
    return GlyphLabeller(model, {entry.name for entry in LEXICON if entry.unsafe})


def _nudity(own: Nudity) -> ImageLabeller:
    from safeclip.labels.image import NudityImageLabeller

    return NudityImageLabeller(own.unsafe)
