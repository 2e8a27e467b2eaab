"""What the tests of the labels share: the project's own taxonomy, pairs, captions and edits of them."""

from __future__ import annotations

import json
import random
from pathlib import Path

from safeclip.core.guard import load_guard
from safeclip.core.taxonomy import load_taxonomy
from safeclip.synthesis.pairs import load_pairs

DATA = Path(__file__).parents[2] / "data"
CALIBRATION = DATA / "calibration"
CLASSIFIER = DATA / "glyph_classifier.safetensors"
TAXONOMY = load_taxonomy(DATA / "taxonomy.yaml")
PHRASES = [phrase.text for phrase in TAXONOMY.phrases]
PAIRS = load_pairs(DATA / "curated_pairs.jsonl", load_guard(), TAXONOMY)
ROWS = [json.loads(line) for line in (DATA / "captions.jsonl").read_text().splitlines()]
TRAIN = [row["caption"] for row in ROWS if row["split"] == "train"][:400]
UNSEEN = [row["caption"] for row in ROWS if row["split"] == "val"][:80]


def rewritten(captions: list[str], seed: int) -> list[str]:
    """Captions with a phrase in place of one to four of their words, or behind them."""
    rng, out = random.Random(seed), []
    for caption in captions:
        words, phrase, start = caption.split(), rng.choice(PHRASES), rng.randrange(4)
        tail = [*words[:start], phrase, *words[start + rng.randint(1, 4) :]]
        out.append(" ".join(tail) if rng.random() < 0.5 else f"{caption} while holding {phrase}")
    return out
