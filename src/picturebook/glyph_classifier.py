"""A small convolutional classifier that names the glyphs in a picture: weak detection by pooling.

Each place of an 8 x 8 map scores every glyph of the lexicon; a glyph's logit for the picture is the pooled
log-sum-exp of its scores (Pinheiro and Collobert, arXiv 1411.6228, eq. 6), so that places are learnt from the
names of what a picture shows alone. `scripts/train_glyph_classifier.py` trains it on drawings of its own.
"""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor, nn

from picturebook.lexicon import LEXICON
from safeclip.core.artifacts import DataFolder
from safeclip.core.errors import ModelError
from safeclip.encoders.load import decode_image

CLASSIFIER = "glyph_classifier.safetensors"  # in the data folder
SIDE = 64
SHARPNESS = 4.0
"""Of the pooling: 0 is the mean over places, infinity the maximum."""
WIDTHS = (32, 64, 64, 96, 96)
STRIDES = (2, 2, 1, 2, 1)


class GlyphClassifier(nn.Module):
    """Pictures [B, 3, 64, 64] in [0, 1] -> a logit for each name, [B, N]; `names` gives the order."""

    def __init__(self, names: tuple[str, ...]) -> None:
        super().__init__()
        self.names = names
        layers: list[nn.Module] = []
        for inputs, outputs, stride in zip((3, *WIDTHS), WIDTHS, STRIDES, strict=False):
            layers += [
                nn.Conv2d(inputs, outputs, 3, stride, 1, bias=False),
                nn.BatchNorm2d(outputs),
                nn.ReLU(),
            ]
        self.features = nn.Sequential(*layers)
        self.scores = nn.Conv2d(WIDTHS[-1], len(names), 1)
        assert self.scores.bias is not None
        nn.init.constant_(self.scores.bias, -math.log(100.0))  # about one picture in a hundred has a glyph

    def forward(self, pixels: Tensor) -> Tensor:
        scores = self.scores(self.features((pixels - 0.5) / 0.25)).float().flatten(2)  # [B, N, places]
        return (scores.mul(SHARPNESS).logsumexp(-1) - math.log(scores.shape[-1])) / SHARPNESS


def save_classifier(model: GlyphClassifier, path: Path) -> None:
    """Weights in fp16, the names in the file's metadata."""
    weights = {
        key: value.half().contiguous() if value.is_floating_point() else value
        for key, value in sorted(model.state_dict().items())
    }
    path.parent.mkdir(parents=True, exist_ok=True)
    save_file(weights, path, metadata={"names": json.dumps(model.names)})


def load_classifier(path: Path) -> GlyphClassifier:
    """The classifier of one safetensors file, fp32, in eval mode; `ModelError` says what is wrong with it."""
    if not path.is_file():
        raise ModelError(f"{path}: no such file; pull the data folder or train it again")
    try:
        with safe_open(path, framework="pt") as file:
            names = tuple(json.loads((file.metadata() or {})["names"]))
            weights = {key: file.get_tensor(key) for key in file.keys()}  # noqa: SIM118
        model = GlyphClassifier(names)
        model.load_state_dict(
            {key: value.float() if value.is_floating_point() else value for key, value in weights.items()}
        )
    except (SafetensorError, OSError, ValueError, KeyError, RuntimeError) as error:
        first = str(error).splitlines()[0][:120]
        raise ModelError(f"{path}: not a glyph classifier ({first}); pull the data folder again") from None
    return model.eval()


class GlyphLabeller:
    """The largest share of evidence that one of the unsafe glyphs is in the picture."""

    def __init__(self, data: DataFolder, *, model: str | None = None, batch_size: int = 256) -> None:
        """Load the classifier: the file `model`, or that of the data folder.

        Raises:
            ModelError: the file cannot be used, or knows nothing unsafe.
        """
        path = Path(model) if model else data.root / CLASSIFIER
        self._model = load_classifier(path)
        unsafe = {entry.name for entry in LEXICON if entry.unsafe}
        self._unsafe = torch.tensor([name in unsafe for name in self._model.names])
        self._batch_size = batch_size
        if not self._unsafe.any():
            raise ModelError(f"{path}: knows none of the unsafe glyphs; train it again")

    @torch.no_grad()
    def score(self, items: Sequence[bytes]) -> np.ndarray:
        """Probability that something unsafe is shown, float32 [N]; `DataError` names a broken picture."""
        scores = np.zeros(len(items), np.float32)
        for start in range(0, len(items), self._batch_size):
            batch = items[start : start + self._batch_size]
            pictures = torch.stack([pixels(data, start + row) for row, data in enumerate(batch)])
            logits = self._model(pictures)[:, self._unsafe].logsumexp(-1)
            scores[start : start + len(batch)] = logits.sigmoid().numpy()
        return scores


def pixels(data: bytes, index: int) -> Tensor:
    """[3, 64, 64] in [0, 1] of an encoded picture; `DataError` names the `index` of a broken one."""
    picture = decode_image(data, index).resize((SIDE, SIDE), Image.Resampling.BICUBIC)
    return torch.from_numpy(np.array(picture)).permute(2, 0, 1).float().div(255)
