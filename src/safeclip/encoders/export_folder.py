"""Write an encoder as a folder: in open_clip's layout, for transformers, or for diffusers.

The tokenizer goes along: the folder's own files, or open_clip's vocabulary as `CLIPTokenizer` reads it.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from open_clip.constants import OPENAI_DATASET_MEAN, OPENAI_DATASET_STD
from open_clip.tokenizer import SimpleTokenizer
from open_clip.transform import PreprocessCfg
from safetensors.torch import save_file
from torch import nn
from transformers import CLIPImageProcessor, CLIPModel

from safeclip.core.errors import ModelError
from safeclip.core.files import replacing
from safeclip.encoders.export import (
    open_clip_config,
    to_clip_model,
    to_open_clip_model,
    to_text_encoder,
    to_text_encoder_with_projection,
)
from safeclip.encoders.load import CONFIG, TOKENIZER_FILES, WEIGHTS, Encoder


def save_like(model: nn.Module, like: Path, folder: Path, dtype: torch.dtype = torch.float32) -> None:
    """Write `model`'s weights in `dtype` to `folder`; configuration and tokenizer come from `like`.

    fp32 reads back bit for bit; fp16 halves the file and rounds. Raises `ModelError` if `like` is no folder
    of an encoder.
    """
    if not (like / CONFIG).is_file():
        raise ModelError(f"{like}: no {CONFIG}; only an encoder kept as a folder can be written like it")
    folder.mkdir(parents=True, exist_ok=True)
    shutil.copyfile(like / CONFIG, folder / CONFIG)
    _copy_tokenizer(like, folder)
    state = {name: tensor.detach().to(dtype).contiguous() for name, tensor in model.state_dict().items()}
    save_file(state, folder / WEIGHTS)


LAYOUTS: dict[str, Callable[[Any], Any]] = {
    "transformers": to_clip_model,
    "text-encoder": to_text_encoder,
    "text-encoder-with-projection": to_text_encoder_with_projection,
}
_RESAMPLING = {"nearest": 0, "bilinear": 2, "bicubic": 3}


def write_transformers(encoder: Encoder, source: str | Path, layout: str, folder: Path) -> None:
    """Write `encoder` in one of `LAYOUTS` to `folder`, which appears whole or not at all.

    source: the folder or name that the encoder was loaded from; its tokenizer is taken along.
    """
    if layout not in LAYOUTS:
        raise ModelError(f"layout {layout!r} is unknown; use one of {', '.join(LAYOUTS)}")
    with _new_folder(folder) as partial:
        LAYOUTS[layout](encoder.model).save_pretrained(partial)
        write_tokenizer(encoder, source, partial)
        if layout == "transformers":
            _image_processor(encoder).save_pretrained(partial)


def write_tokenizer(encoder: Encoder, source: str | Path, folder: Path) -> None:
    """Write the files of a `CLIPTokenizer` that gives the ids of `encoder.tokenize`."""
    if _copy_tokenizer(Path(source), folder):
        return
    if isinstance(encoder.tokenizer, SimpleTokenizer):
        _write_simple_tokenizer(encoder.tokenizer, folder, encoder.context_length)
    else:
        raise ModelError(f"{source}: its tokenizer is not CLIP's; give a model with CLIP's tokenizer")


def write_open_clip(source: Path, folder: Path) -> None:
    """Read a transformers CLIP from `source` and write it in open_clip's layout, fp32, for `load_encoder`."""
    model = _read_clip_model(source)
    with _new_folder(folder) as partial:
        model_cfg = open_clip_config(model.config)
        model_cfg["text_cfg"]["hf_tokenizer_name"] = "local"
        config = {"model_cfg": model_cfg, "preprocess_cfg": _preprocessing(source)}
        (partial / CONFIG).write_text(json.dumps(config, indent=2) + "\n", encoding="utf-8")
        state = to_open_clip_model(model).state_dict()
        save_file({name: tensor.contiguous() for name, tensor in state.items()}, partial / WEIGHTS)
        if not _copy_tokenizer(source, partial):
            raise ModelError(f"{source}: no tokenizer files; put {', '.join(TOKENIZER_FILES[:3])} there")


def _read_clip_model(source: Path) -> CLIPModel:
    if not (source / "config.json").is_file():
        raise ModelError(f"{source}: no config.json; give the folder of a transformers CLIP")
    try:
        return CLIPModel.from_pretrained(source, use_safetensors=True).eval()
    except Exception as error:  # transformers raises many types for missing or broken files
        line = (str(error).strip().splitlines() or [type(error).__name__])[0][:200]
        raise ModelError(f"{source}: no CLIP to load ({line}); restore the folder") from None


def _preprocessing(source: Path) -> dict[str, Any]:
    """Read open_clip's `preprocess_cfg` from preprocessor_config.json; CLIP's values where it is silent."""
    file = source / "preprocessor_config.json"
    config = json.loads(file.read_text(encoding="utf-8")) if file.is_file() else {}
    names = {value: name for name, value in _RESAMPLING.items()}
    return {
        "mean": list(config.get("image_mean", OPENAI_DATASET_MEAN)),
        "std": list(config.get("image_std", OPENAI_DATASET_STD)),
        "interpolation": names.get(config.get("resample", 3), "bicubic"),
    }


def _image_processor(encoder: Encoder) -> CLIPImageProcessor:
    cfg = PreprocessCfg(**encoder.model.visual.preprocess_cfg)
    return CLIPImageProcessor(
        size={"shortest_edge": encoder.image_size},
        crop_size={"height": encoder.image_size, "width": encoder.image_size},
        resample=_RESAMPLING[cfg.interpolation],
        image_mean=list(cfg.mean),
        image_std=list(cfg.std),
    )


def _write_simple_tokenizer(tokenizer: SimpleTokenizer, folder: Path, context_length: int) -> None:
    merges = sorted(tokenizer.bpe_ranks, key=tokenizer.bpe_ranks.__getitem__)
    start, end = (tokenizer.decoder[i] for i in (tokenizer.sot_token_id, tokenizer.eot_token_id))
    config = {
        "tokenizer_class": "CLIPTokenizer",
        "model_max_length": context_length,
        "bos_token": start,
        "eos_token": end,
        "unk_token": end,
        "pad_token": tokenizer.decoder[0],  # open_clip pads with id 0
    }
    (folder / "vocab.json").write_text(json.dumps(tokenizer.encoder, ensure_ascii=False), encoding="utf-8")
    lines = ["#version: 0.2", *(" ".join(pair) for pair in merges)]
    (folder / "merges.txt").write_text("\n".join(lines) + "\n", encoding="utf-8")
    (folder / "tokenizer_config.json").write_text(json.dumps(config, indent=2) + "\n", encoding="utf-8")


def _copy_tokenizer(source: Path, folder: Path) -> bool:
    """Copy the tokenizer's files; False if there are none."""
    files = [source / name for name in TOKENIZER_FILES if (source / name).is_file()]
    for file in files:
        shutil.copyfile(file, folder / file.name)
    return bool(files)


@contextmanager
def _new_folder(folder: Path) -> Iterator[Path]:
    """Yield a folder that becomes `folder` if the block ends well; a `ModelError` if it exists."""
    if folder.exists():
        raise ModelError(f"{folder}: is there already; remove it or name another folder")
    with replacing(folder) as partial:
        partial.mkdir()
        yield partial
