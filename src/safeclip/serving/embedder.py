"""The packaged encoder behind the service: loads once, proves itself, embeds.

A packaged model folder holds `encoder/` (merged weights, fp32), `base/` (the untouched base towers),
`reference.json` (texts with the vectors the checkpoint gave when it was packaged) and `info.json`.
"""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import torch

from safeclip.encoders.embed import embed_images, embed_texts
from safeclip.encoders.load import load_encoder
from safeclip.errors import GuardError, ModelError
from safeclip.guard import load_guard

PARITY = 1e-5
"""Largest difference of any vector component between packaging and serving."""


class Embedder:
    """Embeds texts and image files with the packaged encoder.

    Raises `ModelError` at once if the reference vectors are not reproduced to `PARITY`.
    """

    def __init__(self, folder: Path, threads: int = 1) -> None:
        torch.set_num_threads(threads)
        self.guard = load_guard()
        self.encoder = load_encoder(folder / "encoder")
        self.info = json.loads((folder / "info.json").read_text())
        self._check_parity(json.loads((folder / "reference.json").read_text()))

    def texts(self, texts: list[str]) -> np.ndarray:
        """[N, D] float32, l2-normalised; `GuardError` naming the item if one trips the content guard."""
        for index, text in enumerate(texts):
            if self.guard.trips(text):
                raise GuardError(f"texts[{index}] is refused by the content policy; remove it")
        return embed_texts(self.encoder, texts).numpy()

    def images(self, images: list[bytes]) -> np.ndarray:
        """[N, D] float32, l2-normalised, from PNG, JPEG or WebP bytes."""
        return embed_images(self.encoder, images).numpy()

    def _check_parity(self, reference: dict) -> None:
        now = self.texts(reference["texts"])
        worst = float(np.abs(now - np.asarray(reference["embeddings"], dtype=np.float32)).max())
        if not worst <= PARITY:
            raise ModelError(
                f"reference vectors differ by {worst:.1e} (at most {PARITY:.0e}): weights or libraries are "
                "not those that were packaged; rebuild the Bento"
            )
