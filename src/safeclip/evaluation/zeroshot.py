"""Zero-shot classification with prompt ensembles (Radford et al., arXiv 2103.00020, section 3.1.4).

A class is the normalised mean of the normalised embeddings of its prompts, every template with every name
of the class; a picture gets the class of the largest cosine; among equal cosines the alphabetically first.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import pyarrow as pa
import torch
from torch import Tensor

from safeclip.encoders.embed import embed_images, embed_texts
from safeclip.encoders.load import Encoder, decode_image
from safeclip.errors import DataError
from safeclip.evaluation.zeroshot_sets import Pictures, find_pictures
from safeclip.records import read_columns
from safeclip.retrieval.topk import topk

ZEROSHOT = pa.schema([("image", pa.binary()), ("label", pa.string())])


@dataclass(frozen=True)
class ZeroShotSet:
    """M pictures with their classes, and prompt templates that hold `{}` where a class's name goes.

    names: what to call each class; one that is not listed goes by its own name with blanks for underscores.
    """

    images: Sequence[bytes]
    labels: list[str]
    templates: list[str]
    names: Mapping[str, Sequence[str]] = field(default_factory=dict)

    @property
    def classes(self) -> list[str]:
        """All that a picture may be taken for: those of the set, and those that have names but no picture."""
        return sorted({*self.labels, *self.names})

    @property
    def called(self) -> list[list[str]]:
        """The names of each of `classes`."""
        return [list(self.names.get(name, [name.replace("_", " ")])) for name in self.classes]

    @property
    def ids(self) -> list[str]:
        return [f"zeroshot-{row:06d}" for row in range(len(self.labels))]


def read_zeroshot(pictures: Path, prompts: Path) -> ZeroShotSet:
    """Read a set of pictures and its prompts.

    pictures: Parquet (image, label), a folder with a folder of pictures a class, or webdataset shards
    (`zeroshot_sets`). A table without rows says that the data set has no zero-shot set: nothing is measured
    then, and the gate's zero-shot rules fail. prompts: JSON, {"templates": ["a photo of a {}"], "classes":
    {"n01558993": ["robin", "American robin"]}}, where `classes` may be left out.
    """
    if not pictures.exists():
        raise DataError(f"{pictures}: no such file or folder; give class folders, .tar shards or Parquet")
    templates, names = _prompts(prompts)
    if pictures.is_dir() or (pictures.is_file() and pictures.suffix == ".tar"):
        images, labels = find_pictures(pictures)
        return ZeroShotSet(images, labels, templates, names)
    table = read_columns(pictures, ZEROSHOT)
    labels = table["label"].to_pylist()
    if labels and len(set(labels)) < 2:
        raise DataError(f"{pictures}: {len(set(labels))} class; zero-shot needs at least two")
    return ZeroShotSet(table["image"].to_pylist(), labels, templates, names)


def zeroshot_correct(encoder: Encoder, task: ZeroShotSet, batch_size: int) -> np.ndarray:
    """[M] bool: the picture's class is the one retrieved first."""
    if not task.labels:
        return np.zeros(0, dtype=bool)
    weights = class_embeddings(encoder, task.called, task.templates, batch_size)
    try:
        images = embed_images(encoder, task.images, batch_size)
    except DataError:
        _name_the_broken(task)
        raise
    return top1_correct(images, weights, task.labels, task.classes)


def _name_the_broken(task: ZeroShotSet) -> None:
    """A `DataError` that names the first unreadable picture by its file."""
    if isinstance(task.images, Pictures):
        for index, place in enumerate(task.images.places):
            try:
                decode_image(place.read(), index)
            except DataError as error:
                raise DataError(f"{place.name}{str(error).removeprefix(f'image {index}')}") from None


def class_embeddings(
    encoder: Encoder, classes: Sequence[Sequence[str]], templates: Sequence[str], batch_size: int
) -> Tensor:
    """[C, D]: one l2-normalised row a class, the mean over its names and the templates."""
    prompts = [
        [template.replace("{}", name) for name in names for template in templates] for names in classes
    ]
    rows = embed_texts(encoder, [prompt for own in prompts for prompt in own], batch_size)
    means = [own.mean(0) for own in rows.split([len(own) for own in prompts])]
    return torch.nn.functional.normalize(torch.stack(means), dim=-1)


def top1_correct(images: Tensor, weights: Tensor, labels: list[str], classes: list[str]) -> np.ndarray:
    """[M] bool for picture embeddings [M, D], class embeddings [C, D] and the pictures' true labels."""
    _, best = topk(images, weights, 1)
    truth = torch.tensor([classes.index(label) for label in labels])
    return (best[:, 0] == truth).numpy()


def _prompts(path: Path) -> tuple[list[str], dict[str, list[str]]]:
    """Templates, and the names of classes."""
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise DataError(f"{path}: no such file; `dvc pull` brings it") from None
    except ValueError as error:
        raise DataError(f"{path}: not valid JSON ({error}); mend the file") from None
    templates = content.get("templates") if isinstance(content, dict) else None
    if not isinstance(templates, list) or not templates or not all(_is_template(text) for text in templates):
        raise DataError(f"{path}: `templates` must list prompts that each hold {{}} for the class name")
    names = content.get("classes", {})
    if not isinstance(names, dict) or not all(map(_are_names, names.values())):
        raise DataError(f'{path}: `classes` must give each class its names, as {{"n01": ["robin"]}}')
    return templates, {
        name: [called] if isinstance(called, str) else called for name, called in names.items()
    }


def _are_names(called: object) -> bool:
    """One name, or several."""
    listed = [called] if isinstance(called, str) else called
    return (
        isinstance(listed, list)
        and bool(listed)
        and all(isinstance(one, str) and one.strip() for one in listed)
    )


def _is_template(text: object) -> bool:
    return isinstance(text, str) and "{}" in text
