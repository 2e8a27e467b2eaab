"""`safeclip index`: gallery indexes that the service mounts."""

from __future__ import annotations

import argparse
import os
from pathlib import Path

BENTO = Path("results/package/safeclip-embedder.tar")


def index(options: argparse.Namespace) -> int:
    """Index a folder of pictures and captions with a packaged model, for `safeclip serve --gallery`."""
    os.environ.setdefault("OMP_NUM_THREADS", "1")
    from safeclip.core.errors import DataError
    from safeclip.serving.embedder import Embedder
    from safeclip.serving.indexing import build_index
    from safeclip.serving.run import unpacked_model

    folder, out = options.folder, options.out or Path(f"{options.folder.resolve().name}.index")
    if not folder.is_dir():
        raise DataError(f"{folder}: no such folder; name one with pictures or .txt files")
    with unpacked_model(options.model) as model:
        rows, faults = build_index(folder, out, Embedder(model))
    for fault in faults:
        print(f"left out: {fault}")
    print(f"{out}: {rows} items, {len(faults)} left out")
    return 0


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Arguments of `safeclip index`."""
    parser.add_argument("action", choices=["build"], help="what to do")
    parser.add_argument("folder", type=Path, help="pictures and .txt files, a caption a line")
    parser.add_argument(
        "--model", type=Path, default=BENTO, help="a Bento file or a model folder (default: %(default)s)"
    )
    parser.add_argument("--out", type=Path, help="the index to write (default: FOLDER.index)")
