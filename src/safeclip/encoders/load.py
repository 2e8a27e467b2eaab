"""Load a CLIP-like encoder: a folder in open_clip's layout, or a model that open_clip can fetch.

A folder holds `open_clip_config.json`, `open_clip_model.safetensors` and, unless the model uses open_clip's
own vocabulary, the tokenizer's files. Weights of a folder are read from safetensors only: a pickle in a
folder that somebody handed over can run code.
"""

from __future__ import annotations

import hashlib
import io
import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import open_clip
import torch
from open_clip.model import CLIP
from open_clip.pretrained import get_pretrained_cfg
from open_clip.transform import PreprocessCfg, image_transform_v2
from PIL import Image
from safetensors import SafetensorError, safe_open
from torch import Tensor, nn

from safeclip.core.errors import ImageError, ModelError
from safeclip.encoders.text_tower import CutTextCLIP, accept_cut_text, cut_to_longest

CONFIG = "open_clip_config.json"
WEIGHTS = "open_clip_model.safetensors"
TOKENIZER_FILES = ("tokenizer_config.json", "vocab.json", "merges.txt", "tokenizer.json")
IMAGE_FORMATS = ("PNG", "JPEG", "WEBP")


@dataclass(frozen=True)
class Encoder:
    """Both towers with everything needed to feed them.

    `model` is fp32 and in eval mode; its `encode_text` takes what `tokenize` returns, its `encode_image`
    what `preprocess` returns. `digest` is the sha256 of weights, configuration and tokenizer.
    """

    model: CLIP
    tokenizer: Callable[[list[str]], Tensor]
    transform: Callable[[Image.Image], Tensor]
    digest: str
    embed_dim: int
    image_size: int
    context_length: int

    def tokenize(self, texts: Sequence[str]) -> Tensor:
        """Return token ids [B, L] int64, cut behind the batch's longest caption.

        Captions over the context lose their tail and keep the end token.
        """
        if not texts:
            return torch.zeros(0, self.context_length, dtype=torch.long)
        tokens = self.tokenizer(list(texts))
        if not isinstance(self.model, CutTextCLIP):
            return tokens
        return cut_to_longest(tokens, self.model.text_pool_type, self.model.text_eos_id)

    def preprocess(self, images: Sequence[bytes], first_index: int = 0) -> Tensor:
        """Decode PNG, JPEG or WebP bytes: [B, 3, H, W] float32, resized and normalised as the model wants.

        A `DataError` names the broken image, counted from `first_index`.
        """
        if not images:
            return torch.zeros(0, 3, self.image_size, self.image_size)
        decoded = (decode_image(data, first_index + row) for row, data in enumerate(images))
        return torch.stack([self.transform(image) for image in decoded])

    def with_model(self, model: CLIP, digest: str) -> Encoder:
        """Return the same encoder around other weights of the same layout."""
        return replace(self, model=model, digest=digest)


def decode_image(data: bytes, index: int) -> Image.Image:
    """Decode PNG, JPEG or WebP bytes to RGB; an `ImageError` holds `index` if they are broken."""
    try:
        return Image.open(io.BytesIO(data), formats=IMAGE_FORMATS).convert("RGB")
    except Exception as error:  # Pillow's decoders raise a dozen unrelated types
        fault = str(error).splitlines()[0] if str(error) else type(error).__name__
        kinds = " or ".join(IMAGE_FORMATS)
        raise ImageError(index, f"not a readable {kinds} ({fault}); replace or drop it") from None


def load_encoder(spec: str | Path) -> Encoder:
    """Load the encoder that `spec` names; a `ModelError` of one line says what is wrong and what to do.

    spec: a folder (`data/base_encoder`, also as `local-dir:data/base_encoder`), an open_clip model and
    weights tag (`ViT-L-14/openai`), or a Hugging Face repository (`hf-hub:laion/...`).
    """
    name = str(spec).removeprefix("local-dir:")
    if name.startswith("hf-hub:"):
        return _load_named(name, name, None)
    if Path(name).is_dir():
        return _load_folder(Path(name))
    architecture, _, tag = name.rpartition("/")
    if architecture in open_clip.list_models():
        return _load_named(name, architecture, tag)
    raise ModelError(
        f"{name}: neither a folder nor an open_clip model; give a folder with {CONFIG}, "
        "a name and tag such as ViT-L-14/openai, or hf-hub:OWNER/REPOSITORY"
    )


def _load_folder(folder: Path) -> Encoder:
    config = _read_config(folder / CONFIG)
    _check_weights(folder / WEIGHTS)
    tokenizer = _folder_tokenizer(folder, config["model_cfg"])
    try:
        model = open_clip.create_model(f"local-dir:{folder}", precision="fp32")
    except Exception as error:  # the constructor and load_state_dict raise many types
        raise ModelError(
            f"{folder / WEIGHTS}: does not fit {CONFIG} ({_first_line(error)}); "
            "restore both from the same version"
        ) from None
    names = [CONFIG, WEIGHTS, *TOKENIZER_FILES]
    digest = digest_files([folder / name for name in names if (folder / name).is_file()])
    return _assemble(model, tokenizer, digest, config["model_cfg"]["embed_dim"])


def _load_named(spec: str, name: str, tag: str | None) -> Encoder:
    # open_clip only warns when a tag was trained with QuickGELU and the architecture's config says GELU
    quick_gelu = bool(tag and (get_pretrained_cfg(name, tag) or {}).get("quick_gelu"))
    try:
        model = open_clip.create_model(
            name, pretrained=tag, precision="fp32", force_quick_gelu=quick_gelu, require_pretrained=True
        )
        tokenizer = open_clip.get_tokenizer(name)
        config = open_clip.factory.get_model_config(name)
    except Exception as error:  # network, hub and pickle errors share no base
        raise ModelError(
            f"{spec}: cannot be fetched or loaded ({_first_line(error)}); check the name and tag and the "
            "network, or download it once and give its folder"
        ) from None
    return _assemble(model, tokenizer, digest_weights(model, salt=spec), config["embed_dim"])


def _assemble(model: Any, tokenizer: Callable[..., Tensor], digest: str, embed_dim: int) -> Encoder:
    model = model.float().eval()
    accept_cut_text(model)
    preprocess = PreprocessCfg(**model.visual.preprocess_cfg)
    size = preprocess.size
    return Encoder(
        model=model,
        tokenizer=tokenizer,
        transform=image_transform_v2(preprocess, is_train=False),
        digest=digest,
        embed_dim=int(embed_dim),
        image_size=int(size if isinstance(size, int) else size[0]),
        context_length=int(model.context_length),
    )


def _read_config(path: Path) -> dict[str, Any]:
    """Parse the configuration; a `ModelError` names the file if it is missing or lacks a section."""
    try:
        config = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise ModelError(f"{path}: no such file; restore the model folder (`dvc pull data.dvc`)") from None
    except (json.JSONDecodeError, UnicodeDecodeError) as error:
        raise ModelError(f"{path}: not valid JSON ({_first_line(error)}); restore the file") from None
    model_cfg = config.get("model_cfg") if isinstance(config, dict) else None
    if not isinstance(model_cfg, dict):
        raise ModelError(f"{path}: no `model_cfg` section; write it in open_clip's layout")
    for key, kind in (("embed_dim", int), ("vision_cfg", dict), ("text_cfg", dict)):
        if not isinstance(model_cfg.get(key), kind):
            raise ModelError(f"{path}: `model_cfg.{key}` is missing or no {kind.__name__}; restore the file")
    return config


def _check_weights(path: Path) -> None:
    if not path.is_file():
        raise ModelError(
            f"{path}: no such file; restore the model folder, or convert its weights to safetensors "
            "(pickled weights are never loaded from a folder)"
        )
    try:
        with safe_open(path, framework="pt"):
            pass
    except (SafetensorError, OSError) as error:
        raise ModelError(f"{path}: not readable as safetensors ({_first_line(error)}); restore it") from None


def _folder_tokenizer(folder: Path, model_cfg: dict[str, Any]) -> Callable[..., Tensor]:
    """Load the folder's tokenizer; it must not know more tokens than the text tower has rows for."""
    try:
        tokenizer = open_clip.get_tokenizer(f"local-dir:{folder}")
        probe = int(tokenizer(["a"]).max())
    except Exception as error:  # transformers raises many types for missing or broken files
        raise ModelError(
            f"{folder}: the tokenizer cannot be read ({_first_line(error)}); "
            f"restore {', '.join(TOKENIZER_FILES[:3])}"
        ) from None
    rows = model_cfg["text_cfg"].get("vocab_size", 49408)
    if probe >= rows:
        raise ModelError(
            f"{folder}: the tokenizer's end token {probe} lies beyond `vocab_size` {rows} in {CONFIG}; "
            "restore tokenizer and configuration from the same version"
        )
    return tokenizer


def _first_line(error: Exception) -> str:
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return (lines[0] if lines else type(error).__name__)[:200].rstrip(".:")


def digest_weights(model: nn.Module, salt: str = "") -> str:
    """Return the sha256 over the model's tensors by name, beginning with `salt`."""
    digest = hashlib.sha256(salt.encode())
    for name, tensor in sorted(model.state_dict().items()):
        digest.update(f"\0{name}{tuple(tensor.shape)}{tensor.dtype}\0".encode())
        digest.update(tensor.detach().cpu().contiguous().view(-1).view(torch.uint8).numpy().tobytes())
    return digest.hexdigest()


def digest_files(paths: Sequence[Path]) -> str:
    """Return the sha256 over names and contents of files, in the order of the names."""
    digest = hashlib.sha256()
    for path in sorted(paths):
        data = path.read_bytes()
        digest.update(f"{path.name}\0{len(data)}\0".encode() + data)
    return digest.hexdigest()
