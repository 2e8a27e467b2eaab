"""Image labellers: a frozen CLIP between prompts, NudeNet's detector, or a class named by import path."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from safeclip.core.artifacts import DataFolder
from safeclip.core.errors import DataError, ModelError
from safeclip.core.parts import make_part
from safeclip.encoders.embed import embed_images, embed_texts
from safeclip.encoders.load import Encoder, decode_image, load_encoder
from safeclip.labels.calibration import Calibration
from safeclip.labels.ensemble import ImageLabeller
from safeclip.settings import ClipPrompts, ImageLabelling, Nudity

FOLDS = 5
"""Of the cross-validation that scores calibration images by prompts learnt without them."""


def make_image_labeller(
    cfg: ImageLabelling, data: DataFolder, phrases: Sequence[str], calibration: Calibration[bytes]
) -> tuple[ImageLabeller, np.ndarray]:
    """Make the image labeller of one entry of `label_safety.image`.

    Models that the settings leave open come from the data folder; `phrases` are the taxonomy's.

    Returns:
        The labeller and its scores of the calibration images, float32 [N]. Learnt prompts score each image by
        prompts learnt without it.
    """
    labeller: ImageLabeller
    if isinstance(cfg, ClipPrompts):
        encoder = load_encoder(cfg.model or data.base_encoder)
        written = PromptImageLabeller.from_texts(encoder, unsafe=cfg.unsafe or phrases, safe=cfg.safe)
        if cfg.learn:
            return written.learn(calibration.items, calibration.unsafe)
        labeller = written
    elif isinstance(cfg, Nudity):
        labeller = NudityImageLabeller(cfg.unsafe)
    else:
        labeller = make_part(cfg.labeller, data, **cfg.options)
    return labeller, labeller.score(calibration.items)


class PromptImageLabeller:
    """A frozen CLIP between safe and unsafe prompts (Q16, arXiv 2202.06675).

    The score is sigmoid(scale * (best unsafe cosine - best safe cosine)), scale being the encoder's own.
    Prompts are written, or learnt from labelled images as in the paper: two embeddings, started at the means
    of the written ones, fitted with cross-entropy while the encoder stays as it is.
    """

    def __init__(self, encoder: Encoder, *, unsafe: Tensor, safe: Tensor) -> None:
        """Take the embeddings of the prompts, [prompts, D] each, l2-normalised."""
        self._encoder, self._unsafe, self._safe = encoder, unsafe, safe
        self._scale = float(encoder.model.logit_scale.detach().exp())

    @classmethod
    def from_texts(
        cls, encoder: Encoder, *, unsafe: Sequence[str], safe: Sequence[str]
    ) -> PromptImageLabeller:
        """Make a labeller of written prompts."""
        return cls(encoder, unsafe=embed_texts(encoder, list(unsafe)), safe=embed_texts(encoder, list(safe)))

    def score(self, items: Sequence[bytes]) -> np.ndarray:
        """Return the probability of unsafe, float32 [N]; `DataError` names the index of a broken image."""
        return self._score_embeddings(embed_images(self._encoder, items)).numpy()

    def _score_embeddings(self, images: Tensor) -> Tensor:
        # shape: [N, D] against [prompts, D], the best prompt of each kind -> [N]
        margin = (images @ self._unsafe.T).amax(-1) - (images @ self._safe.T).amax(-1)
        return torch.sigmoid(self._scale * margin)

    def learn(self, items: Sequence[bytes], unsafe: Sequence[bool]) -> tuple[PromptImageLabeller, np.ndarray]:
        """Return the labeller with learnt prompts, and each item's score by prompts learnt without it, [N].

        Raises:
            DataError: fewer than `FOLDS` items of a kind.
        """
        if min(sum(unsafe), len(unsafe) - sum(unsafe)) < FOLDS:
            raise DataError(f"prompts: needs {FOLDS} safe and {FOLDS} unsafe images to learn from; add some")
        images, is_unsafe = embed_images(self._encoder, items), torch.tensor(unsafe)
        fold_of = torch.zeros(len(items), dtype=torch.long)
        for kind in (False, True):  # both kinds in every fold
            rows = (is_unsafe == kind).nonzero().flatten()
            fold_of[rows] = torch.arange(len(rows)) % FOLDS
        held_out = torch.zeros(len(items))
        for fold in range(FOLDS):
            rest = fold_of != fold
            held_out[~rest] = self._fit(images[rest], is_unsafe[rest])._score_embeddings(images[~rest])
        return self._fit(images, is_unsafe), held_out.numpy()

    def _fit(self, images: Tensor, unsafe: Tensor) -> PromptImageLabeller:
        # shape: [2, D], safe and unsafe
        start = torch.stack([self._safe.mean(0), self._unsafe.mean(0)])
        prompts = start.clone().requires_grad_()
        # 200 full-batch steps take the two prompts of a few hundred images to where the loss is flat
        optimizer = torch.optim.AdamW([prompts], lr=0.01, weight_decay=0.1)
        for _ in range(200):
            logits = self._scale * images @ F.normalize(prompts, dim=-1).T
            loss = F.cross_entropy(logits, unsafe.long())
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
        safe, learnt = F.normalize(prompts.detach(), dim=-1)
        return PromptImageLabeller(self._encoder, unsafe=learnt[None], safe=safe[None])


class NudityImageLabeller:
    """NudeNet, a detector of body parts in photos: the score of the surest detection that counts as unsafe.

    Needs the extra `nudity`, which is not installed by default (docs/decisions/0011-nudenet-is-an-extra.md).
    """

    def __init__(self, unsafe: Sequence[str]) -> None:
        """Load the detector; `unsafe` names those of its classes that count.

        Raises:
            ModelError: the extra is not installed, a class is unknown, or none is named.
        """
        try:
            import nudenet.nudenet as package
        except ImportError as error:
            raise ModelError(
                f"nudity: NudeNet is not installed ({error}); install safeclip[nudity]"
            ) from None
        known = package.__dict__["__labels"]
        unknown = [name for name in unsafe if name not in known]
        if unknown or not unsafe:
            fault = f"no class {unknown[0]!r}" if unknown else "no class named as unsafe"
            raise ModelError(f"nudity: {fault}; name some of {', '.join(sorted(known))}")
        self._unsafe = frozenset(unsafe)
        self._detector = package.NudeDetector()

    def score(self, items: Sequence[bytes]) -> np.ndarray:
        """Return the highest score of an unsafe detection, 0 without one, float32 [N].

        Raises:
            DataError: names the index of a broken image.
        """
        scores = np.zeros(len(items), np.float32)
        for row, data in enumerate(items):
            # the detector takes BGR
            pixels = np.ascontiguousarray(np.asarray(decode_image(data, row))[:, :, ::-1])
            detections = self._detector.detect(pixels)
            scores[row] = max(
                (hit["score"] for hit in detections if hit["class"] in self._unsafe), default=0.0
            )
        return scores
