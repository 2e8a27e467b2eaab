"""Freshly seeded picture-book scenes outside of every split: safe pairs, their unsafe rewriting, the truth.

A generated caption is the safe one with a thing added or replaced, mostly by an unsafe one; some stay safe,
and some pictures miss what their caption asks. Truth is what was written and drawn.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

import numpy as np

from picturebook.drawing import draw
from picturebook.engine import Photos, PictureBook, caption_is_unsafe
from picturebook.grammar import Scene, safe_scene
from picturebook.lexicon import LEXICON, Entry, find_entries
from picturebook.templates import ZEROSHOT_TEMPLATES
from safeclip.core.records import QUADRUPLETS, TRUTH, write_table
from safeclip.evaluation.scenes import Scenes
from safeclip.evaluation.zeroshot import ZeroShotSet
from safeclip.synthesis.images import Rendered, RenderRequest

Picked = TypeVar("Picked")
STILL_SAFE, MISRENDERED = 0.15, 0.1
_UNSAFE = [entry for entry in LEXICON if entry.unsafe and entry.kind in ("thing", "scene", "animal")]
_SAFE = [entry for entry in LEXICON if not entry.unsafe and entry.kind in ("thing", "food", "animal")]


@dataclass(frozen=True)
class FreshScenes(Scenes):
    """Scenes with the phrase that each generated caption added."""

    concepts: list[str]


def fresh_scenes(count: int, seed: int) -> FreshScenes:
    """`count` scenes; no two with the same safe caption."""
    rng, pairs = np.random.default_rng((seed, 1)), dict[str, tuple[str, list[str], str]]()
    while len(pairs) < count:
        scene = safe_scene(rng)
        entry = _pick(_SAFE if rng.random() < STILL_SAFE else _UNSAFE, rng)
        noun = _noun(entry, rng)
        pairs.setdefault(scene.caption, (_rewritten(scene, noun, rng), sorted(entry.categories), noun))
    safe, generated = list(pairs), [caption for caption, *_ in pairs.values()]
    ids = [f"fresh-{row:06d}" for row in range(count)]
    before = _render(safe, ids, Photos(64, seed=seed))
    after = _render(generated, ids, PictureBook(64, seed=seed, misrender=MISRENDERED))
    return FreshScenes(
        ids=ids,
        categories=[categories for _, categories, _ in pairs.values()],
        concepts=[noun for *_, noun in pairs.values()],
        captions_safe=safe,
        captions_generated=generated,
        images_safe=[picture.image or b"" for picture in before],
        images_generated=[picture.image or b"" for picture in after],
        text_unsafe=np.array([caption_is_unsafe(text) for text in generated]),
        image_unsafe=np.array([bool(picture.unsafe) for picture in after]),
    )


def fresh_zeroshot(seed: int, per_class: int = 3) -> ZeroShotSet:
    """Single-glyph photos of every safe entry of the lexicon, with the picture book's prompts."""
    names = [entry.name for entry in LEXICON if not entry.unsafe for _ in range(per_class)]
    images = [draw(name, "photo", seed * 1_000_003 + row).png for row, name in enumerate(names)]
    return ZeroShotSet(images, names, list(ZEROSHOT_TEMPLATES))


def write_fresh_scenes(count: int, seed: int, dataset: Path, truth: Path) -> None:
    """Write `count` fresh scenes as the test split of a data set, and their truth."""
    write_scenes(fresh_scenes(count, seed), dataset, truth)


def write_scenes(scenes: FreshScenes, dataset: Path, truth: Path) -> None:
    """As the stages leave a test split (QUADRUPLETS) and its truth (TRUTH); the labels are the truth."""
    says = {False: "safe", True: "unsafe"}
    rows = [
        {
            "id": scenes.ids[row],
            "split": "test",
            "caption_safe": scenes.captions_safe[row],
            "caption_generated": scenes.captions_generated[row],
            "image_safe": scenes.images_safe[row],
            "image_generated": scenes.images_generated[row],
            "concept": scenes.concepts[row],
            "categories": scenes.categories[row],
            "text_label": says[bool(scenes.text_unsafe[row])],
            "text_score": float(scenes.text_unsafe[row]),
            "image_label": says[bool(scenes.image_unsafe[row])],
            "image_score": float(scenes.image_unsafe[row]),
            "rewriter": "grammar",
            "image_model": "picturebook",
            "seed": 0,
            "source": "fresh",
        }
        for row in range(len(scenes))
    ]
    judged = [
        {
            "id": scenes.ids[row],
            "text_unsafe": bool(scenes.text_unsafe[row]),
            "image_unsafe": bool(scenes.image_unsafe[row]),
            "glyphs_safe": [],
            "glyphs_generated": [],
        }
        for row in range(len(scenes))
    ]
    write_table(dataset / "test-00000.parquet", rows, QUADRUPLETS)
    write_table(truth, judged, TRUTH)


def _noun(entry: Entry, rng: np.random.Generator) -> str:
    word = _pick(entry.words, rng)
    return word if word in entry.bare else f"{'an' if word[0] in 'aeiou' else 'a'} {word}"


def _rewritten(scene: Scene, noun: str, rng: np.random.Generator) -> str:
    """The noun in the place of the scene's last entry where that stands as one word, else added."""
    last = find_entries(scene.caption)[-1]
    for old in sorted(last.words, key=len, reverse=True):
        changed, times = re.subn(rf"\b(?:an?|the) (?:\w+ )?{re.escape(old)}\b", noun, scene.caption, count=1)
        if times and rng.random() < 0.6:
            return changed
    return f"{scene.caption} and {noun}"


def _render(captions: list[str], ids: list[str], engine: PictureBook) -> list[Rendered]:
    requests = [RenderRequest(row_id, caption) for row_id, caption in zip(ids, captions, strict=True)]
    return list(engine.render(requests))


def _pick(options: Sequence[Picked], rng: np.random.Generator) -> Picked:
    return options[int(rng.integers(len(options)))]
