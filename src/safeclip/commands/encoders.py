"""`safeclip export`, `serve`, `index`: an encoder for other libraries, as a service, with a gallery."""

from __future__ import annotations

import argparse
import os
from pathlib import Path

from safeclip.commands.subcommands import Commands, adder
from safeclip.core.artifacts import BENTO

LAYOUTS = ("transformers", "text-encoder", "text-encoder-with-projection", "open_clip")


def export(options: argparse.Namespace) -> int:
    """Write an encoder for transformers or as the text encoder of a diffusers pipeline, or the way back."""
    from safeclip.encoders.export_folder import write_open_clip, write_transformers
    from safeclip.encoders.load import load_encoder
    from safeclip.encoders.lora import load_candidate

    if options.to == "open_clip":
        write_open_clip(Path(options.model), options.out)
    else:
        adapter = options.adapter
        encoder = load_candidate(options.model, adapter) if adapter else load_encoder(options.model)
        write_transformers(encoder, options.model, options.to, options.out)
    print(options.out)
    return 0


def serve(options: argparse.Namespace) -> int:
    """The packaged Bento over HTTP."""
    from safeclip.serving.run import serve as serve_bento

    return serve_bento(options.bento, host=options.host, port=options.port, gallery=options.gallery)


def index(options: argparse.Namespace) -> int:
    """Index a folder of images and captions with a packaged model, for `safeclip serve --gallery`."""
    os.environ.setdefault("OMP_NUM_THREADS", "1")
    from safeclip.core.errors import DataError
    from safeclip.serving.embedder import Embedder
    from safeclip.serving.indexing import build_index
    from safeclip.serving.run import unpacked_model

    folder, out = options.folder, options.out or Path(f"{options.folder.resolve().name}.index")
    if not folder.is_dir():
        raise DataError(f"{folder}: no such folder; name one with images or .txt files")
    with unpacked_model(options.model) as model:
        rows, faults = build_index(folder, out, Embedder(model))
    for fault in faults:
        print(f"left out: {fault}")
    print(f"{out}: {rows} items, {len(faults)} left out")
    return 0


def register(commands: Commands[argparse.ArgumentParser]) -> None:
    """Add `export`, `serve` and `index`."""
    add = adder(commands)
    argument = add(
        export,
        "write an encoder for transformers or diffusers",
        "safeclip export clip-for-transformers",
    ).add_argument
    argument("out", type=Path, metavar="FOLDER", help="folder to write; must not exist")
    argument("--model", default="data/base_encoder", help="folder or name (default: %(default)s)")
    argument("--adapter", type=Path, help="a fine-tuned adapter to merge first")
    argument(
        "--to", choices=LAYOUTS, default="transformers",
        help="layout to write; open_clip reads a transformers CLIP (default: %(default)s)",
    )  # fmt: skip
    argument = add(serve, "serve the packaged Bento over HTTP", "safeclip serve --port 3000").add_argument
    argument("bento", nargs="?", type=Path, default=BENTO, help="an exported Bento (default: %(default)s)")
    argument("--host", default="127.0.0.1", help="address to listen on (default: %(default)s)")
    argument("--port", type=int, default=3000, help="port to listen on (default: %(default)s)")
    argument("--gallery", type=Path, help="an index for /search and /ui (`safeclip index build`)")
    argument = add(index, "make a gallery index for the service", "safeclip index build photos/").add_argument
    argument("action", choices=["build"], help="what to do")
    argument("folder", type=Path, help="images and .txt files, a caption a line")
    argument(
        "--model", type=Path, default=BENTO, help="a Bento file or a model folder (default: %(default)s)"
    )
    argument("--out", type=Path, help="the index to write (default: FOLDER.index)")
