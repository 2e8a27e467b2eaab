"""The rows of one split, ready for training: tokens, pixels, labels, the teacher's embeddings, targets.

Captions are tokenised and pictures decoded once. Pixels live in a memory-mapped file, so a data set larger
than memory trains too; the file sits in the run's own work folder and goes with it.
"""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pyarrow as pa
import torch
from torch import Tensor

from safeclip.core.errors import DataError
from safeclip.encoders.embed import Quadruplets
from safeclip.encoders.load import Encoder
from safeclip.training.targets import low_variance_direction, redirection_targets

CHUNK = 256  # pictures decoded at a time


@dataclass(frozen=True)
class Rows:
    """N rows in the order of their ids, and C tokens, the model's context.

    tokens_safe, tokens_generated: [N, C] int64. pixels: [2, P, 3, H, W] float32, safe pictures first, and
    pictures: [N] int64, which of the P a row has.
    text_unsafe, image_unsafe: [N] bool. target_text, target_image: [N, D], each row's redirection target.
    axis: [D], a direction that the teacher hardly uses on these rows.
    """

    ids: tuple[str, ...]
    tokens_safe: Tensor
    tokens_generated: Tensor
    pixels: np.ndarray
    text_unsafe: Tensor
    image_unsafe: Tensor
    pictures: Tensor
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
    """Read a table of quadruplets into `Rows`; decoded pixels go to `pixels_path`, or lie there if `decoded`.

    `target_inverse_temperature` chooses the redirection targets (`teacher.redirection_targets`).

    Raises:
        DataError: no rows, or a picture that cannot be decoded (named by its row id).
    """
    if table.num_rows == 0:
        raise DataError("the split has no rows; lower the data contract's losses or take more rows")
    target_text, target_image = redirection_targets(teacher, target_inverse_temperature)
    return Rows(
        ids=tuple(table["id"].to_pylist()),
        tokens_safe=encoder.tokenizer(table["caption_safe"].to_pylist()),
        tokens_generated=encoder.tokenizer(table["caption_generated"].to_pylist()),
        pixels=np.load(pixels_path, mmap_mode="r") if decoded else _decode(encoder, table, pixels_path),
        text_unsafe=_unsafe(table, "text_label"),
        image_unsafe=_unsafe(table, "image_label"),
        pictures=torch.arange(table.num_rows),
        teacher=teacher,
        target_text=target_text,
        target_image=target_image,
        axis=low_variance_direction(teacher),
    )


def _unsafe(table: pa.Table, column: str) -> Tensor:
    return torch.tensor([label == "unsafe" for label in table[column].to_pylist()])


def _decode(encoder: Encoder, table: pa.Table, path: Path) -> np.ndarray:
    size = encoder.image_size
    shape = (2, table.num_rows, 3, size, size)
    pixels = np.lib.format.open_memmap(path, mode="w+", dtype=np.float32, shape=shape)
    _reserve(path)
    ids = table["id"].to_pylist()
    for side, column in enumerate(("image_safe", "image_generated")):
        for start in range(0, table.num_rows, CHUNK):
            images = table[column].slice(start, CHUNK).to_pylist()
            try:
                pixels[side, start : start + CHUNK] = encoder.preprocess(images).numpy()
            except DataError as error:
                raise DataError(
                    f"rows {ids[start]} to {ids[start + len(images) - 1]}: {column}, {error}"
                ) from None
    return pixels


def _reserve(path: Path) -> None:
    """Take the file's blocks now: on a full disk a write into a sparse mapped file ends the process."""
    with path.open("r+b") as file:
        try:
            os.posix_fallocate(file.fileno(), 0, path.stat().st_size)
        except OSError as error:
            error.filename = str(path)
            raise
