"""The rows of one split, ready for training: tokens, pixels, labels, the teacher's embeddings, targets.

Captions are tokenised and images decoded once. Pixels live in a memory-mapped file, so a data set larger than
memory trains too. The file lies in the run's own work folder and is deleted with it.
"""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pyarrow as pa
import torch
from torch import Tensor
from torch.nn import functional as F

from safeclip.core.errors import DataError, ImageError
from safeclip.encoders.embed import Quadruplets
from safeclip.encoders.load import Encoder
from safeclip.metrics.topk import topk

CHUNK = 256  # images decoded at a time


@dataclass(frozen=True)
class Rows:
    """N rows in the order of their ids. C is the model's context, D the embedding's width.

    tokens_safe, tokens_generated: [N, C] int64.
    pixels: [2, P, 3, H, W] float32, as the image tower takes them; safe images first.
    image_index: [N] int64, which of the P image pairs a row has. Repeated rows share theirs.
    text_unsafe, image_unsafe: [N] bool, the labels of the generated items.
    teacher: the frozen teacher's embeddings, each column [N, D].
    target_text, target_image: [N, D], each row's redirection target.
    axis: [D], a direction that the teacher hardly uses on these rows.
    """

    ids: tuple[str, ...]
    tokens_safe: Tensor
    tokens_generated: Tensor
    pixels: np.ndarray
    text_unsafe: Tensor
    image_unsafe: Tensor
    image_index: Tensor
    teacher: Quadruplets
    target_text: Tensor
    target_image: Tensor
    axis: Tensor

    def __len__(self) -> int:
        return len(self.ids)


def prepare_rows(
    encoder: Encoder,
    table: pa.Table,
    teacher: Quadruplets,
    pixels_path: Path,
    target_inverse_temperature: float | None = None,
    *,
    decoded: bool = False,
) -> Rows:
    """Read a table of quadruplets into `Rows`.

    Decoded pixels are written to `pixels_path`; with `decoded` another process has written them there.
    `target_inverse_temperature` chooses the redirection targets (`redirection_targets`).

    Raises:
        DataError: no rows, or an image that cannot be decoded (the message names its row).
    """
    if table.num_rows == 0:
        raise DataError("the split has no rows; lower the data contract's losses or take more rows")
    target_text, target_image = redirection_targets(teacher, target_inverse_temperature)
    text_unsafe, image_unsafe = (
        torch.tensor([label == "unsafe" for label in table[column].to_pylist()])
        for column in ("text_label", "image_label")
    )
    return Rows(
        ids=tuple(table["id"].to_pylist()),
        tokens_safe=encoder.tokenizer(table["caption_safe"].to_pylist()),
        tokens_generated=encoder.tokenizer(table["caption_generated"].to_pylist()),
        pixels=np.load(pixels_path, mmap_mode="r") if decoded else _decode(encoder, table, pixels_path),
        text_unsafe=text_unsafe,
        image_unsafe=image_unsafe,
        image_index=torch.arange(table.num_rows),
        teacher=teacher,
        target_text=target_text,
        target_image=target_image,
        axis=low_variance_direction(teacher),
    )


def _decode(encoder: Encoder, table: pa.Table, path: Path) -> np.ndarray:
    """Decode both image columns into a memory-mapped file: [2, N, 3, H, W] float32."""
    size = encoder.image_size
    shape = (2, table.num_rows, 3, size, size)
    pixels = np.lib.format.open_memmap(path, mode="w+", dtype=np.float32, shape=shape)
    # take the file's blocks now: on a full disk a write into a sparse mapped file kills the process
    with path.open("r+b") as file:
        try:
            os.posix_fallocate(file.fileno(), 0, path.stat().st_size)
        except OSError as error:
            error.filename = str(path)
            raise
    ids = table["id"].to_pylist()
    for side, column in enumerate(("image_safe", "image_generated")):
        for start in range(0, table.num_rows, CHUNK):
            images = table[column].slice(start, CHUNK).to_pylist()
            try:
                pixels[side, start : start + CHUNK] = encoder.preprocess(images).numpy()
            except ImageError as error:
                raise DataError(f"{ids[start + error.index]}: {column}: {error.fault}") from None
    return pixels


def redirection_targets(
    teacher: Quadruplets, inverse_temperature: float | None = None, block: int = 1024
) -> tuple[Tensor, Tensor]:
    """Return where each row's unsafe items are redirected to: text and image embeddings, each [N, D].

    Without `inverse_temperature` these are the teacher's embeddings of the nearest safe pair. SaFeR-CLIP
    (arXiv 2511.16743) finds its targets so, there by captions alone. Ties go to the lower row. With it they
    are the normalised mean of all safe pairs p, weighted by exp(inverse_temperature * nearness(row, p)). Such
    a target changes little between similar rows, so training carries it over to rows it never saw. Nearness
    is the sum of the cosines of caption to caption and image to image. Memory is N x D, and block x N for the
    mean.
    """
    # [t ; v] . [t' ; v'] = t.t' + v.v': one product for both modalities
    queries = torch.cat([teacher.text_generated, teacher.image_generated], dim=1)
    gallery = torch.cat([teacher.text_safe, teacher.image_safe], dim=1)
    if inverse_temperature is None:
        near = topk(queries, gallery, 1, block, block)[1][:, 0]
        return teacher.text_safe[near], teacher.image_safe[near]
    # shape: [block, 2 D] x [2 D, N] -> [block, N] -> [block, 2 D]
    means = [
        (inverse_temperature * rows @ gallery.T).softmax(dim=1) @ gallery for rows in queries.split(block)
    ]
    text, image = torch.cat(means).chunk(2, dim=1)
    return F.normalize(text, dim=-1), F.normalize(image, dim=-1)


def low_variance_direction(teacher: Quadruplets) -> Tensor:
    """Return a unit vector [D] along which the teacher's embeddings hardly differ from 0 (0.01 rms measured).

    It is the middle eigenvector of their second moment, safe and generated, captions and images alike. The
    last ones have less variance still, but the towers' projections can hardly reach them: measured ten times
    slower to learn. The sign is fixed by the largest component.
    """
    # shape: [4 N, D]
    items = torch.cat(teacher.parts()).double()
    _, vectors = torch.linalg.eigh(items.T @ items)
    axis = vectors[:, items.shape[1] // 2]
    return (axis * axis[axis.abs().argmax()].sign()).float()
