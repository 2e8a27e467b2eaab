"""The image labeller that settings ask for; each one's code is loaded only where it is used."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from safeclip.settings.label_safety import Glyphs, ImageLabelling, Nudity, Prompts
from safeclip.synthesis.labels.calibration import Calibration
from safeclip.synthesis.labels.interface import ImageLabeller


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
    from safeclip.synthesis.labels.clip_prompts import written_prompts

    labeller = written_prompts(
        load_encoder(own.model or data / "base_encoder"), own.unsafe or phrases, own.safe
    )
    if own.learn:
        return labeller.learn(calibration.items, calibration.unsafe)
    return labeller, labeller.score(calibration.items)


def _glyphs(own: Glyphs, data: Path) -> ImageLabeller:
    from safeclip.picturebook.lexicon import LEXICON
    from safeclip.synthesis.labels.glyph_classifier import GlyphLabeller, load_classifier

    model = load_classifier(Path(own.model) if own.model else data / "glyph_classifier.safetensors")
    return GlyphLabeller(model, {entry.name for entry in LEXICON if entry.unsafe})


def _nudity(own: Nudity) -> ImageLabeller:
    from safeclip.synthesis.labels.nude_detector import NudityImageLabeller

    return NudityImageLabeller(own.unsafe)
