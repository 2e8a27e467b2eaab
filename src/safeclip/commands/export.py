"""`safeclip export`: an encoder, base or fine-tuned, in the layout of another library."""

from __future__ import annotations

import argparse
from pathlib import Path

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


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The arguments of `safeclip export`."""
    parser.add_argument("out", type=Path, metavar="FOLDER", help="folder to write; must not exist")
    parser.add_argument("--model", default="data/base_encoder", help="folder or name (default: %(default)s)")
    parser.add_argument("--adapter", type=Path, help="a fine-tuned adapter to merge first")
    parser.add_argument(
        "--to",
        choices=LAYOUTS,
        default="transformers",
        help="layout to write; open_clip reads a transformers CLIP (default: %(default)s)",
    )
