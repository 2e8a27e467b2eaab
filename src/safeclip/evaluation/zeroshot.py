"""Zero-shot sets of one's own: a folder of pictures a class, or webdataset shards.

  birds/robin/1.jpg ...             the folder's name is the class
  shards/0.tar, 1.tar ...           1.jpg beside 1.cls: the class, or its number in shards/classnames.txt

Only places are kept in memory, and a picture is read when its batch is embedded: a set may be larger than it.
"""

from __future__ import annotations

import json
import re
import tarfile
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import overload

import numpy as np
import pyarrow as pa
import torch
from torch import Tensor

from safeclip.core.errors import DataError, ImageError
from safeclip.core.files import sha256
from safeclip.core.records import read_columns
from safeclip.encoders.embed import embed_images, embed_texts
from safeclip.encoders.load import Encoder, decode_image
from safeclip.metrics.topk import topk

PICTURES = ("jpg", "jpeg", "png", "webp")
LABELS = ("cls", "label")
CLASS_NAMES = "classnames.txt"
_MEMBER = re.compile(r"((?:.*/)?[^./]+)\.([^/]*)", re.DOTALL)  # a sample's key ends at its name's first dot
_MAX_LABEL = 1000  # bytes


@dataclass(frozen=True)
class Place:
    """Where a picture's bytes lie: a file, or `size` bytes from `offset` of an archive."""

    path: Path
    name: str
    offset: int = 0
    size: int = -1

    def read(self) -> bytes:
        try:
            with self.path.open("rb") as file:
                file.seek(self.offset)
                return file.read(self.size)
        except OSError as error:
            raise DataError(f"{self.name}: cannot be read ({error.strerror}); restore it") from None


class Pictures(Sequence[bytes]):
    """Pictures by their places, read when asked for."""

    def __init__(self, places: Sequence[Place]) -> None:
        self.places = list(places)

    def __len__(self) -> int:
        return len(self.places)

    @overload
    def __getitem__(self, at: int) -> bytes: ...
    @overload
    def __getitem__(self, at: slice) -> list[bytes]: ...
    def __getitem__(self, at: int | slice) -> bytes | list[bytes]:
        found = self.places[at]
        return [place.read() for place in found] if isinstance(found, list) else found.read()


def find_pictures(path: Path) -> tuple[Pictures, list[str]]:
    """Pictures and their classes, in order of class and name (folders) or of the shards.

    `DataError` names the first thing that cannot be used.
    """
    archives = [path] if path.is_file() else sorted(path.glob("*.tar"))
    found = list(_samples(archives) if archives else _class_folders(path))
    labels = [label for _, label in found]
    if len(set(labels)) < 2:
        raise DataError(f"{path}: {len(set(labels))} class; zero-shot needs at least two")
    return Pictures([place for place, _ in found]), labels


def set_files(path: Path) -> list[Path]:
    """Every file that a set consists of, sorted: what its digest is made from."""
    if path.is_file():
        names = path.with_name(CLASS_NAMES)
        return [path, names] if path.suffix == ".tar" and names.is_file() else [path]
    return sorted(file for file in path.rglob("*") if file.is_file() and not _hidden(file))


def set_digest(path: Path) -> str:
    """sha256 of a Parquet file's bytes, or of the names and digests of a set's files."""
    files = set_files(path)
    if files == [path]:
        return sha256(path)
    import hashlib

    lines = "".join(f"{file.relative_to(path.parent)} {sha256(file)}\n" for file in files)
    return hashlib.sha256(lines.encode()).hexdigest()


def _class_folders(folder: Path) -> Iterator[tuple[Place, str]]:
    classes = sorted(child for child in folder.iterdir() if child.is_dir() and not _hidden(child))
    if not classes:
        raise DataError(f"{folder}: neither folders of pictures, one a class, nor .tar shards; add some")
    for kind in classes:
        files = sorted(child for child in kind.iterdir() if not _hidden(child))
        if not files:
            raise DataError(f"{kind}: a class without pictures; add some or remove the folder")
        for file in files:
            if not file.is_file() or file.suffix.lstrip(".").lower() not in PICTURES:
                raise DataError(f"{file}: not a {', '.join(PICTURES)} file; remove it")
            yield Place(file, str(file)), kind.name


def _samples(archives: Sequence[Path]) -> Iterator[tuple[Place, str]]:
    names = _class_names(archives[0].with_name(CLASS_NAMES))
    for archive in archives:
        pictures: dict[str, Place] = {}
        labels: dict[str, str] = {}
        try:
            with tarfile.open(archive, mode="r:") as opened:
                for member in opened:
                    _add(archive, opened, member, pictures, labels)
        except (tarfile.TarError, OSError, EOFError) as error:
            fault = str(error).splitlines()[0] if str(error) else type(error).__name__
            raise DataError(f"{archive}: cannot be read ({fault}); only whole, plain .tar is") from None
        for key in sorted(pictures.keys() | labels.keys()):
            if key not in pictures or key not in labels:
                lacks = "picture" if key not in pictures else f"class (.{LABELS[0]})"
                raise DataError(f"{archive}/{key}: has no {lacks}; add it or remove the sample")
            yield pictures[key], _named(labels[key], names, f"{archive}/{key}")


def _add(
    archive: Path,
    opened: tarfile.TarFile,
    member: tarfile.TarInfo,
    pictures: dict[str, Place],
    labels: dict[str, str],
) -> None:
    """Take one member of an archive as a picture or a class; others (captions, json) are passed over."""
    named = _MEMBER.fullmatch(member.name)
    if named is None or not member.isreg():
        return
    key, extension = named[1], named[2].rpartition(".")[2].lower()
    where = f"{archive}/{member.name}"
    if extension in PICTURES:
        if key in pictures:
            raise DataError(f"{where}: a second picture of {key}; a sample has one")
        if archive.stat().st_size < member.offset_data + member.size:
            raise DataError(f"{where}: the archive ends within it; copy it again")
        pictures[key] = Place(archive, where, member.offset_data, member.size)
    elif extension in LABELS:
        file = opened.extractfile(member)
        data = file.read(_MAX_LABEL) if file else b""
        labels[key] = data.decode("utf-8", errors="replace").strip()


def _class_names(path: Path) -> list[str]:
    return path.read_text(encoding="utf-8").splitlines() if path.is_file() else []


def _named(label: str, names: Sequence[str], where: str) -> str:
    """The class of a sample: as written, or by its number in classnames.txt."""
    if not label:
        raise DataError(f"{where}: its class is empty; write one")
    if not names:
        return label
    if label.isdecimal() and int(label) < len(names):
        return names[int(label)]
    if label in names:
        return label
    raise DataError(f"{where}: class {label!r} is not among the {len(names)} of {CLASS_NAMES}")


def _hidden(path: Path) -> bool:
    return path.name.startswith(".")


# Zero-shot classification with prompt ensembles (Radford et al., arXiv 2103.00020, section 3.1.4).
#
# A class is the normalised mean of the normalised embeddings of its prompts, every template with every name
# of the class; a picture gets the class of the largest cosine; among equal cosines the alphabetically first.


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
            except ImageError as error:
                raise DataError(f"{place.name}: {error.fault}") from None


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
