"""Keep the frozen teacher's embeddings of every row: embedded once, read by training and probes.

Training never runs the teacher. It reads these files, so nothing that training does to a model in memory can
move the targets.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path

from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file

from safeclip.core.errors import DataError, ModelError
from safeclip.core.files import digest_of, replacing
from safeclip.encoders.embed import Quadruplets

FORMAT = "safeclip-teacher-1"


def write_teacher(path: Path, embeddings: Quadruplets, ids: Sequence[str], encoder_digest: str) -> None:
    """Write embeddings as safetensors, marked with the encoder's digest and a digest of the row ids."""
    # one key that holds JSON: safetensors writes several keys in a random order
    mark = json.dumps({"encoder": encoder_digest, "ids": digest_of(*ids)}, sort_keys=True)
    with replacing(path) as partial:
        save_file(asdict(embeddings), partial, metadata={FORMAT: mark})


def read_teacher(path: Path, ids: Sequence[str], encoder_digest: str) -> Quadruplets:
    """Read what `write_teacher` wrote.

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
    if mark.get("ids") != digest_of(*ids):
        raise DataError(f"{path}: embeds other rows than the dataset's; run the embed_teacher stage again")
    if mark["encoder"] != encoder_digest:
        raise ModelError(f"{path}: embedded by another encoder; run the embed_teacher stage again")
    return Quadruplets(**tensors)
