"""A tiny random encoder folder and tiny tables of quadruplets: real files, real loading, no weights."""

from __future__ import annotations

import io
import json
from pathlib import Path

import numpy as np
import pyarrow as pa
import torch
from open_clip.model import CLIP
from PIL import Image
from safetensors.torch import save_file

from safeclip.core.records import QUADRUPLETS
from safeclip.encoders.load import Encoder, load_encoder
from safeclip.encoders.tokenizer import count_pieces, save_vocabulary, train_vocabulary

WORDS = ("dog", "boat", "tree", "river", "house", "gun", "bomb", "a", "near", "the")
MODEL = {
    "embed_dim": 16,
    "vision_cfg": {"image_size": 16, "patch_size": 8, "width": 32, "layers": 2, "head_width": 16},
    "text_cfg": {
        "hf_tokenizer_name": "local",
        "context_length": 16,
        "vocab_size": 540,
        "width": 32,
        "heads": 2,
        "layers": 2,
    },
}
PREPROCESS = {"size": [16, 16], "mode": "RGB", "mean": [0.5] * 3, "std": [0.5] * 3}


def write_tiny_encoder(folder: Path, seed: int = 0) -> Path:
    """An open_clip folder with random weights."""
    folder.mkdir(parents=True, exist_ok=True)
    save_vocabulary(folder, train_vocabulary(count_pieces(WORDS), 540), context_length=16)
    config = {"model_cfg": MODEL, "preprocess_cfg": PREPROCESS}
    (folder / "open_clip_config.json").write_text(json.dumps(config))
    torch.manual_seed(seed)
    model = CLIP(**MODEL)
    state = {name: value.detach().clone() for name, value in model.state_dict().items()}
    save_file(state, folder / "open_clip_model.safetensors")
    return folder


def tiny_encoder(folder: Path, seed: int = 0) -> Encoder:
    return load_encoder(write_tiny_encoder(folder, seed))


def tiny_table(rows: int, split: str = "train", seed: int = 0) -> pa.Table:
    """Quadruplets of random words and random pixels; about a fifth of the labels of each modality is safe."""
    rng = np.random.default_rng(seed)
    return pa.Table.from_pylist([_row(rng, split, number) for number in range(rows)], schema=QUADRUPLETS)


def _row(rng: np.random.Generator, split: str, number: int) -> dict:
    words = list(rng.choice(WORDS[:5], 4))
    labels = ["safe" if draw < 0.2 else "unsafe" for draw in rng.random(2)]
    return {
        "id": f"{split}-{number:04d}",
        "split": split,
        "caption_safe": " ".join(words),
        "caption_generated": " ".join([*words[:2], str(rng.choice(WORDS[5:7])), *words[2:]]),
        "image_safe": _png(rng),
        "image_generated": _png(rng),
        "concept": "weapons",
        "categories": ["violence"],
        "text_label": labels[0],
        "text_score": 0.9,
        "image_label": labels[1],
        "image_score": 0.9,
        "rewriter": "tiny",
        "image_model": "tiny",
        "seed": number,
        "source": "tiny",
    }


def _png(rng: np.random.Generator) -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(rng.integers(0, 255, (16, 16, 3), dtype=np.uint8)).save(buffer, "PNG")
    return buffer.getvalue()
