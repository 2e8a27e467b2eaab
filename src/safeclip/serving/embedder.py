"""The packaged model behind the service: loads once, checks itself, embeds and scores inputs.

A packaged model folder holds `encoder/` (merged weights, fp32), `base/` (the untouched base towers),
`reference.json` (texts and an image with the vectors that the checkpoint gave when it was packaged),
`scoring.json` (probes on base and served embeddings) and `info.json`.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from safeclip.core.errors import DataError, GuardError, ModelError
from safeclip.core.guard import load_guard
from safeclip.encoders.load import Encoder, load_encoder
from safeclip.serving.images import check_image, decode_base64
from safeclip.serving.schemas import Score, Scoring
from safeclip.serving.towers import Towers

MODALITIES = ("text", "image")


class Scorer:
    """Scores how unsafe inputs are, by linear probes on base and served embeddings together.

    Reads the content of `scoring.json`: by modality the weights and biases of one probe for "unsafe" and one
    for each category, and the thresholds. Only numbers are packaged, no wording. An input counts as
    redirected if it is unsafe and its served embedding lies further from the base embedding than that of
    nearly all safe inputs.
    """

    def __init__(self, packaged: dict[str, Any]) -> None:
        try:
            self._probes = {name: _Probe(packaged[name]) for name in MODALITIES}
        except (KeyError, TypeError, ValueError) as error:
            raise ModelError(f"scoring.json: incomplete ({error}); rebuild the Bento") from None

    @property
    def described(self) -> dict[str, Scoring]:
        """Thresholds and measured error by modality."""
        return {name: probe.described for name, probe in self._probes.items()}

    def marks(self, modality: str, score: Score) -> bool:
        """Whether a page marks it as perhaps unsafe; errs towards marking."""
        return score.score >= self._probes[modality].described.hide_threshold

    def score(self, modality: str, base: np.ndarray, served: np.ndarray) -> list[Score]:
        """Scores of inputs of one modality from their base and served embeddings, both [N, D]."""
        probe = self._probes[modality]
        outputs = probe.outputs(np.hstack([base, served]))
        shifts = 1 - (base * served).sum(axis=1)
        return [probe.score(row, float(shift)) for row, shift in zip(outputs, shifts, strict=True)]


class _Probe:
    def __init__(self, packaged: dict[str, Any]) -> None:
        self._weight = np.asarray(packaged["weight"], np.float32)
        self._bias = np.asarray(packaged["bias"], np.float32)
        self._categories: list[str] = packaged["categories"]
        self.described = Scoring.model_validate(packaged["scoring"])

    def outputs(self, features: np.ndarray) -> np.ndarray:
        """Features [N, 2D] -> [N, 1 + categories] in 0 to 1; the first column is "unsafe"."""
        logits = features @ self._weight + self._bias
        return 1 / (1 + np.exp(-np.clip(logits, -30, 30)))

    def score(self, row: np.ndarray, shift: float) -> Score:
        """The score of one input from its row of `outputs` and its shift, 1 - cosine of both embeddings."""
        unsafe = bool(row[0] >= self.described.threshold)
        return Score(
            unsafe=unsafe,
            score=float(row[0]),
            categories={name: float(value) for name, value in zip(self._categories, row[1:], strict=True)},
            redirected=unsafe and shift >= self.described.shift_threshold,
            shift=shift,
        )


TEXTS = 256  # in one batch at most
# Largest difference of any vector component between packaging and serving, by what the towers compute in.
PARITY = {"float32": 1e-5, "bfloat16": 5e-3}


class Embedder:
    """Checks texts and images, and embeds them: [N, D] float32, l2-normalised.

    `precision` is a key of `PARITY`. Raises `ModelError` at once if the reference vectors are not reproduced.
    """

    def __init__(self, folder: Path, threads: int = 1, precision: str = "float32") -> None:
        torch.set_num_threads(threads)
        self.guard = load_guard()
        self.encoder = _load(folder / "encoder")
        self.base = _load(folder / "base")
        self.info: dict[str, Any] = _read(folder / "info.json")
        self.scorer = Scorer(_read(folder / "scoring.json"))
        dtype: torch.dtype = getattr(torch, precision)
        self._towers = [Towers(self.encoder, dtype), Towers(self.base, dtype)]
        self._check_parity(_read(folder / "reference.json"), PARITY[precision])

    def check_text(self, text: str, name: str) -> None:
        """`GuardError` naming the item if the text trips the content guard."""
        if self.guard.trips(text):
            raise GuardError(f"{name} is refused by the content policy; remove it")

    def prepare_image(self, encoded: str, name: str) -> Tensor:
        """Base64 of a file -> [3, H, W] as the towers take it; `DataError` naming the item."""
        data = decode_base64(encoded, name)
        check_image(data, name)
        try:
            return self.encoder.preprocess([data])[0]
        except DataError:
            raise DataError(f"{name} cannot be decoded; send the whole file") from None

    @torch.inference_mode()
    def texts(self, texts: list[str], base: bool = False) -> np.ndarray:
        """Embeddings of checked texts, in batches of like length."""
        vectors = np.zeros((len(texts), self.encoder.embed_dim), np.float32)
        order = sorted(range(len(texts)), key=lambda row: len(texts[row]))
        for start in range(0, len(order), TEXTS):
            rows = order[start : start + TEXTS]
            tokens = self.encoder.tokenize([texts[row] for row in rows])
            vectors[rows] = self._towers[base].texts(tokens).numpy()
        return vectors

    @torch.inference_mode()
    def images(self, pixels: list[Tensor], base: bool = False) -> np.ndarray:
        """Embeddings of prepared images."""
        return self._towers[base].images(torch.stack(pixels)).numpy()

    def _check_parity(self, reference: dict[str, Any], parity: float) -> None:
        pixels = [self.prepare_image(image, "reference image") for image in reference["images"]]
        now = np.concatenate([self.texts(reference["texts"]), self.images(pixels)])
        packaged = np.asarray(reference["embeddings"], dtype=np.float32)
        worst = float(np.abs(now - packaged).max()) if now.shape == packaged.shape else float("inf")
        if not worst <= parity:
            raise ModelError(
                f"reference vectors differ by {worst:.1e} (at most {parity:.0e}): weights or libraries are "
                "not those that were packaged; rebuild the Bento"
            )


def _load(folder: Path) -> Encoder:
    encoder = load_encoder(folder)
    for parameter in encoder.model.parameters():
        parameter.requires_grad_(False)
    return encoder


def _read(path: Path) -> dict[str, Any]:
    try:
        value: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        raise ModelError(f"{path}: missing or not JSON; rebuild the Bento") from None
    return value
