"""The frozen teacher: its embeddings of every row, made once, and where each row is redirected to.

Training never runs the teacher. It reads these files, so nothing that training does to a model in memory can
move the targets.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Callable, Sequence
from dataclasses import asdict
from pathlib import Path

import pyarrow as pa
import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor
from torch.nn import functional as F

from safeclip.encoders.embed import embed_images, embed_texts
from safeclip.encoders.load import Encoder
from safeclip.errors import DataError, ModelError
from safeclip.retrieval.topk import topk
from safeclip.training.objectives import Quadruplets

FORMAT = "safeclip-teacher-1"


def embed_quadruplets(
    encoder: Encoder,
    table: pa.Table,
    batch_size: int,
    progress: Callable[[int], None] = lambda rows: None,
) -> Quadruplets:
    """Embed the four columns of a table of quadruplets, each [N, D] in the table's order."""
    embedded = {}
    for name in ("text_safe", "text_generated", "image_safe", "image_generated"):
        column = table[name.replace("text", "caption")].to_pylist()
        embed = embed_texts if name.startswith("text") else embed_images
        embedded[name] = embed(encoder, column, batch_size)  # type: ignore[operator]
        progress(len(column))
    return Quadruplets(**embedded)


def write_teacher(path: Path, embeddings: Quadruplets, ids: Sequence[str], encoder_digest: str) -> None:
    """Write embeddings as safetensors, marked with the encoder's digest and a digest of the row ids."""
    # one key that holds JSON: safetensors writes several keys in a random order
    mark = json.dumps({"encoder": encoder_digest, "ids": _digest(ids)}, sort_keys=True)
    partial = path.with_name(f".{path.name}.partial")
    save_file(asdict(embeddings), partial, metadata={FORMAT: mark})
    os.replace(partial, path)


def read_teacher(path: Path, ids: Sequence[str], encoder_digest: str) -> Quadruplets:
    """Read what `write_teacher` wrote; an error if it is of other rows or of another encoder.

    Raises:
        DataError: missing, unreadable, or not of these rows in this order.
        ModelError: embedded by another encoder.
    """
    try:
        with safe_open(path, framework="pt") as file:
            mark = json.loads((file.metadata() or {}).get(FORMAT, "{}"))
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
    except (SafetensorError, OSError) as error:
        fault = str(error).splitlines()[0]
        raise DataError(f"{path}: not readable ({fault}); run the embed_teacher stage") from None
    if mark.get("ids") != _digest(ids):
        raise DataError(f"{path}: embeds other rows than the dataset's; run the embed_teacher stage again")
    if mark["encoder"] != encoder_digest:
        raise ModelError(f"{path}: embedded by another encoder; run the embed_teacher stage again")
    return Quadruplets(**tensors)


def redirection_targets(
    teacher: Quadruplets, sharpness: float | None = None, block: int = 1024
) -> tuple[Tensor, Tensor]:
    """Where each row's unsafe items are redirected to: captions' and pictures' embeddings, each [N, D].

    Without `sharpness` the teacher's embeddings of the nearest safe pair, as SaFeR-CLIP (arXiv 2511.16743)
    finds its targets offline, there by captions alone; ties go to the lower row. With it, the normalised mean
    of all safe pairs p, weighted by exp(sharpness * nearness(row, p)): a target that changes little between
    similar rows is one that training can carry over to rows it never saw. Nearness is the sum of the cosines
    of caption to caption and picture to picture. Memory is N x D, and block x N for the mean.
    """
    # [t ; v] . [t' ; v'] = t.t' + v.v': one product for both modalities
    queries = torch.cat([teacher.text_generated, teacher.image_generated], dim=1)
    gallery = torch.cat([teacher.text_safe, teacher.image_safe], dim=1)
    if sharpness is None:
        near = topk(queries, gallery, 1, block, block)[1][:, 0]
        return teacher.text_safe[near], teacher.image_safe[near]
    means = [(sharpness * rows @ gallery.T).softmax(dim=1) @ gallery for rows in queries.split(block)]
    text, image = torch.cat(means).chunk(2, dim=1)
    return F.normalize(text, dim=-1), F.normalize(image, dim=-1)


def quiet_axis(teacher: Quadruplets) -> Tensor:
    """A unit vector [D] along which the teacher's embeddings hardly differ from 0 (measured: 0.01 rms).

    The middle eigenvector of their second moment, safe and generated, captions and pictures alike. The last
    ones are quieter still, but the towers' projections can hardly reach them (measured: ten times slower to
    learn). The sign is fixed by the largest component.
    """
    items = torch.cat([*asdict(teacher).values()]).double()
    _, vectors = torch.linalg.eigh(items.T @ items)
    axis = vectors[:, items.shape[1] // 2]
    return (axis * axis[axis.abs().argmax()].sign()).float()


def _digest(ids: Sequence[str]) -> str:
    return hashlib.sha256("\0".join(ids).encode()).hexdigest()
