"""A CLIP of ViT-B/32 size with random weights: our packaged model, and a transformers folder for the peer.

Speed does not depend on the values. Both have open_clip's layout of layers and its own vocabulary.
"""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import open_clip
import torch
from open_clip.tokenizer import SimpleTokenizer, bytes_to_unicode
from safetensors.torch import save_file
from transformers import CLIPConfig, CLIPImageProcessor, CLIPModel

from safeclip.encoders.load import load_encoder
from safeclip.packaging.bento import ModelFacts, write_model

NAME = "ViT-B-32"
CATEGORIES = ["violence"]


def write_ours(folder: Path) -> None:
    """The folder that SAFECLIP_MODEL names; the probes are zeros."""
    base = folder.parent / "base"
    base.mkdir(parents=True)
    torch.manual_seed(0)
    model = open_clip.create_model(NAME)
    config = {"model_cfg": open_clip.get_model_config(NAME), "preprocess_cfg": model.visual.preprocess_cfg}
    (base / "open_clip_config.json").write_text(json.dumps(config))
    state = {name: value.contiguous() for name, value in model.state_dict().items()}
    save_file(state, base / "open_clip_model.safetensors")
    write_model(folder, load_encoder(base), base, {}, facts(config["model_cfg"]["embed_dim"]))


def facts(dimension: int) -> ModelFacts:
    """Probes that judge nothing, so that a model can be served without a data set."""
    probe = {
        "categories": CATEGORIES,
        "weight": np.zeros((dimension, 1 + len(CATEGORIES))).tolist(),
        "bias": [0.0] * (1 + len(CATEGORIES)),
        "scoring": {
            "threshold": 0.6,
            "hide_threshold": 0.6,
            "shift_threshold": 1.0,
            "false_alarms": 0.0,
            "recall": 0.0,
            "n": 1,
        },
    }
    return ModelFacts({"text": probe, "image": probe}, [])


def write_peer(folder: Path) -> None:
    """The same sizes for transformers, with the same tokenizer as files."""
    folder.mkdir(parents=True)
    torch.manual_seed(0)
    config = CLIPConfig()  # its defaults are ViT-B/32
    config.text_config.eos_token_id = 49407
    CLIPModel(config).eval().save_pretrained(folder)
    CLIPImageProcessor().save_pretrained(folder)
    tokenizer = SimpleTokenizer()
    ids = {token: index for token, index in tokenizer.encoder.items()}
    ids["<|startoftext|>"], ids["<|endoftext|>"] = 49406, 49407
    ids = {token: index for token, index in ids.items() if token not in ("<start_of_text>", "<end_of_text>")}
    (folder / "vocab.json").write_text(json.dumps(ids, ensure_ascii=False), encoding="utf-8")
    merges = [" ".join(pair) for pair in sorted(tokenizer.bpe_ranks, key=tokenizer.bpe_ranks.__getitem__)]
    (folder / "merges.txt").write_text("\n".join(["#version: 0.2", *merges]) + "\n", encoding="utf-8")
    settings = {
        "tokenizer_class": "CLIPTokenizer",
        "model_max_length": 77,
        "bos_token": "<|startoftext|>",
        "eos_token": "<|endoftext|>",
        "pad_token": "<|endoftext|>",
        "unk_token": "<|endoftext|>",
    }
    (folder / "tokenizer_config.json").write_text(json.dumps(settings))
    assert len(bytes_to_unicode()) == 256


if __name__ == "__main__":
    import sys

    write_ours(Path(sys.argv[1]) / "ours")
    write_peer(Path(sys.argv[1]) / "peer")
