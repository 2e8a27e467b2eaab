"""Zero-shot classification with prompt ensembles (Radford et al., arXiv 2103.00020, section 3.1.4).

A class is the normalised mean of the normalised embeddings of its prompts; a picture gets the class of the
largest cosine; among equal cosines the first class in alphabetical order.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pyarrow as pa
import torch
from torch import Tensor

from safeclip.encoders.embed import embed_images, embed_texts
from safeclip.encoders.load import Encoder
from safeclip.errors import DataError
from safeclip.records import read_columns
from safeclip.retrieval.topk import topk

ZEROSHOT = pa.schema([("image", pa.binary()), ("label", pa.string())])


@dataclass(frozen=True)
class ZeroShotSet:
    """M pictures with their class names, and prompt templates that hold `{}` where the name goes."""

    images: list[bytes]
    labels: list[str]
    templates: list[str]

    @property
    def classes(self) -> list[str]:
        return sorted(set(self.labels))

    @property
    def ids(self) -> list[str]:
        return [f"zeroshot-{row:06d}" for row in range(len(self.labels))]


def read_zeroshot(pictures: Path, prompts: Path) -> ZeroShotSet:
    """Read the pictures (Parquet: image, label) and the prompts (JSON: {"templates": ["a photo of {}"]}).

    A table without rows says that the data set has no zero-shot set: nothing is measured then, and the
    gate's zero-shot rules fail.
    """
    table = read_columns(pictures, ZEROSHOT)
    labels = table["label"].to_pylist()
    if labels and len(set(labels)) < 2:
        raise DataError(f"{pictures}: {len(set(labels))} class; zero-shot needs at least two")
    return ZeroShotSet(table["image"].to_pylist(), labels, _templates(prompts))


def zeroshot_correct(encoder: Encoder, task: ZeroShotSet, batch_size: int) -> np.ndarray:
    """[M] bool: the picture's class is the one retrieved first."""
    if not task.labels:
        return np.zeros(0, dtype=bool)
    weights = class_embeddings(encoder, task.classes, task.templates, batch_size)
    return top1_correct(embed_images(encoder, task.images, batch_size), weights, task.labels, task.classes)


def class_embeddings(encoder: Encoder, classes: list[str], templates: list[str], batch_size: int) -> Tensor:
    """[C, D]: one l2-normalised row a class, the mean over the templates."""
    prompts = [template.replace("{}", name) for name in classes for template in templates]
    rows = embed_texts(encoder, prompts, batch_size)
    return torch.nn.functional.normalize(rows.view(len(classes), len(templates), -1).mean(1), dim=-1)


def top1_correct(images: Tensor, weights: Tensor, labels: list[str], classes: list[str]) -> np.ndarray:
    """[M] bool for picture embeddings [M, D], class embeddings [C, D] and the pictures' true labels."""
    _, best = topk(images, weights, 1)
    truth = torch.tensor([classes.index(label) for label in labels])
    return (best[:, 0] == truth).numpy()


def _templates(path: Path) -> list[str]:
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise DataError(f"{path}: no such file; `dvc pull` brings it") from None
    except ValueError as error:
        raise DataError(f"{path}: not valid JSON ({error}); mend the file") from None
    templates = content.get("templates") if isinstance(content, dict) else None
    if not isinstance(templates, list) or not templates or not all(_is_template(text) for text in templates):
        raise DataError(f"{path}: `templates` must list prompts that each hold {{}} for the class name")
    return templates


def _is_template(text: object) -> bool:
    return isinstance(text, str) and "{}" in text
