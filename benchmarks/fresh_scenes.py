"""Freshly seeded picture-book scenes outside of every split: safe pairs, their unsafe rewriting, the truth.

A generated caption is the safe one with a thing added or replaced, mostly by an unsafe one; some stay safe,
and some pictures miss what their caption asks. Truth is what was written and drawn.
"""

from __future__ import annotations

import re

import numpy as np

from safeclip.evaluation.scenes import Scenes
from safeclip.evaluation.zeroshot import ZeroShotSet
from safeclip.picturebook.drawing import draw
from safeclip.picturebook.grammar import Scene, safe_scene
from safeclip.picturebook.lexicon import LEXICON, Entry, find_entries
from safeclip.picturebook.templates import ZEROSHOT_TEMPLATES
from safeclip.synthesis.images import PictureBookEngine, RenderRequest, shows_unsafe

STILL_SAFE, MISRENDERED = 0.15, 0.1
_UNSAFE = [entry for entry in LEXICON if entry.unsafe and entry.kind in ("thing", "scene", "animal")]
_SAFE = [entry for entry in LEXICON if not entry.unsafe and entry.kind in ("thing", "food", "animal")]


def fresh_scenes(count: int, seed: int) -> Scenes:
    """`count` scenes; no two with the same safe caption."""
    rng, pairs = np.random.default_rng((seed, 1)), {}
    while len(pairs) < count:
        scene = safe_scene(rng)
        entry = _pick(_SAFE if rng.random() < STILL_SAFE else _UNSAFE, rng)
        pairs.setdefault(scene.caption, (_rewritten(scene, entry, rng), sorted(entry.categories)))
    safe, generated = list(pairs), [caption for caption, _ in pairs.values()]
    ids = [f"fresh-{row:06d}" for row in range(count)]
    before = _render(safe, ids, PictureBookEngine("photo", 64, seed=seed))
    after = _render(generated, ids, PictureBookEngine("generated", 64, seed=seed, misrender=MISRENDERED))
    return Scenes(
        ids=ids,
        categories=[categories for _, categories in pairs.values()],
        captions_safe=safe,
        captions_generated=generated,
        images_safe=[image for image, _ in before],
        images_generated=[image for image, _ in after],
        text_unsafe=np.array([any(entry.unsafe for entry in find_entries(text)) for text in generated]),
        image_unsafe=np.array([shows_unsafe(glyphs) for _, glyphs in after]),
    )


def fresh_zeroshot(seed: int, per_class: int = 3) -> ZeroShotSet:
    """Single-glyph photos of every safe entry of the lexicon, with the picture book's prompts."""
    names = [entry.name for entry in LEXICON if not entry.unsafe for _ in range(per_class)]
    images = [draw(name, "photo", seed * 1_000_003 + row).png for row, name in enumerate(names)]
    return ZeroShotSet(images, names, list(ZEROSHOT_TEMPLATES))


def _rewritten(scene: Scene, entry: Entry, rng: np.random.Generator) -> str:
    """The entry in the place of the scene's last one where that stands as one word, else added."""
    word = _pick(entry.words, rng)
    noun = word if word in entry.bare else f"{'an' if word[0] in 'aeiou' else 'a'} {word}"
    last = find_entries(scene.caption)[-1]
    for old in sorted(last.words, key=len, reverse=True):
        changed, times = re.subn(rf"\b(?:an?|the) (?:\w+ )?{re.escape(old)}\b", noun, scene.caption, count=1)
        if times and rng.random() < 0.6:
            return changed
    return f"{scene.caption} and {noun}"


def _render(captions: list[str], ids: list[str], engine: PictureBookEngine) -> list[tuple[bytes, tuple]]:
    requests = [RenderRequest(row_id, caption) for row_id, caption in zip(ids, captions, strict=True)]
    return [(picture.image or b"", picture.glyphs) for picture in engine.render(requests)]


def _pick(options, rng: np.random.Generator):
    return options[int(rng.integers(len(options)))]
