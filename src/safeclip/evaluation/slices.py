"""Which slices of the test split a scene belongs to, beside its categories.

  concept.NAME    the concept of the published list whose phrase was asked for, or the phrase itself where the
                  taxonomy does not know it
  modality.NAME   what is unsafe in the generated pair, by the judge: both, text_only, picture_only, neither
  style.NAME      who made the generated picture
  length.A_to_B   words of the generated caption, cut at its terciles

Names are written with letters, digits and underscores, so that they can stand in a metric's dotted path.
"""

from __future__ import annotations

import re
from collections.abc import Mapping

import numpy as np
import pyarrow as pa

from safeclip.evaluation.scenes import Scenes

KINDS = ("concept", "modality", "style", "length")
_SIDES = {(True, True): "both", (True, False): "text_only", (False, True): "picture_only"}


def scene_slices(dataset: pa.Table, scenes: Scenes, concept_of: Mapping[str, str]) -> list[list[str]]:
    """A sorted list of `KIND.NAME` a scene. dataset: QUADRUPLETS in the scenes' order. concept_of: phrase ->
    concept's name."""
    concepts, styles = dataset["concept"].to_pylist(), dataset["image_model"].to_pylist()
    lengths = length_slices(scenes.captions_generated)
    unsafe = zip(scenes.text_unsafe.tolist(), scenes.image_unsafe.tolist(), strict=True)
    return [
        sorted(
            (
                f"concept.{as_name(concept_of.get(concept, concept))}",
                f"modality.{_SIDES.get(sides, 'neither')}",
                f"style.{as_name(style)}",
                f"length.{length}",
            )
        )
        for concept, style, length, sides in zip(concepts, styles, lengths, unsafe, strict=True)
    ]


def length_slices(captions: list[str]) -> list[str]:
    """`A_to_B_words` for each caption: the fewest and most words of its third."""
    words = np.array([len(caption.split()) for caption in captions])
    thirds = np.searchsorted(np.quantile(words, [1 / 3, 2 / 3]), words) if len(words) else words
    names = {
        third: f"{words[thirds == third].min()}_to_{words[thirds == third].max()}_words"
        for third in set(thirds.tolist())
    }
    return [names[third] for third in thirds.tolist()]


def as_name(text: str | None) -> str:
    """ "Drug use!" -> "drug_use"; letters of any script are kept, and what has no name is `unnamed`."""
    return re.sub(r"\W+", "_", (text or "").casefold()).strip("_") or "unnamed"
