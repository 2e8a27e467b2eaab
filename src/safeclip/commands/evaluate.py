"""`safeclip evaluate`: score any CLIP on our scenes or on safe/unsafe pairs."""

from __future__ import annotations

import argparse
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING

from safeclip.commands.subcommands import Commands, adder
from safeclip.core.errors import DataError

if TYPE_CHECKING:
    from safeclip.encoders.load import Encoder
    from safeclip.evaluation.scenes import Scenes
    from safeclip.evaluation.zeroshot import ZeroShotSet

ZEROSHOT = Path("data/zeroshot.parquet")


def evaluate(options: argparse.Namespace) -> int:
    """Retrieval, redirection and zero-shot of one or more encoders, with intervals, in one table."""
    from safeclip.core.files import write_json
    from safeclip.evaluation.pairs import as_json, score, table_lines
    from safeclip.metrics.intervals import Resampling

    scenes = _scenes(options)
    task = _zeroshot(options)
    resampling = Resampling(options.seed)
    scores = {}
    for name in options.model:
        print(f"evaluate: {name}, {len(scenes)} scenes", flush=True)
        scores[name] = score(_encoder(name), scenes, task, resampling)
    print("\n".join(table_lines(scores, options.all)))
    if options.json:
        write_json(options.json, as_json(scores))
    return 0


def _encoder(spec: str) -> Encoder:
    """An open_clip folder or name, a transformers CLIP folder, or BASE+ADAPTER."""
    from safeclip.encoders.export_folder import write_open_clip
    from safeclip.encoders.load import CONFIG, load_encoder
    from safeclip.encoders.lora import load_candidate

    base, plus, adapter = spec.partition("+")
    if plus:
        return load_candidate(base, Path(adapter))
    folder = Path(spec)
    if (folder / "config.json").is_file() and not (folder / CONFIG).is_file():
        with tempfile.TemporaryDirectory() as scratch:
            write_open_clip(folder, Path(scratch) / "open_clip")
            return load_encoder(Path(scratch) / "open_clip")
    return load_encoder(spec)


def _zeroshot(options: argparse.Namespace) -> ZeroShotSet | None:
    """The set that was asked for, else the project's if there is one."""
    from safeclip.evaluation.zeroshot import read_zeroshot

    if options.zeroshot is None and not ZEROSHOT.is_file():
        return None
    return read_zeroshot(options.zeroshot or ZEROSHOT, options.prompts)


def _scenes(options: argparse.Namespace) -> Scenes:
    from safeclip.core.records import TRUTH, read_dataset, read_table
    from safeclip.evaluation.pairs import read_pairs
    from safeclip.evaluation.scenes import scenes_with_truth

    if options.data is not None and options.data.suffix in (".json", ".jsonl"):
        return read_pairs(options.data)
    results = Path("results") if options.data is None else options.data
    dataset, truth = results / "validate_data/dataset", results / "render_images/truth.parquet"
    if not truth.is_file():
        raise DataError(f"{truth}: no such file; run the chain first, or give a JSON of pairs with --data")
    return scenes_with_truth(read_dataset(dataset, options.split), read_table(truth, TRUTH))


def register(commands: Commands[argparse.ArgumentParser]) -> None:
    """Add `evaluate`."""
    example = (
        "safeclip evaluate --model data/base_encoder data/base_encoder+results/finetune/adapter.safetensors"
    )
    parser = adder(commands)(evaluate, "score any CLIP: retrieval, redirection, zero-shot", example)
    parser.add_argument(
        "--model", nargs="+", required=True, metavar="MODEL",
        help="open_clip folder or name (ViT-L-14/openai), transformers CLIP folder, or BASE+ADAPTER",
    )  # fmt: skip
    parser.add_argument(
        "--data", type=Path, help="JSON of safe/unsafe pairs, or a results folder (default: results)"
    )
    parser.add_argument(
        "--split", choices=("train", "val", "test"), default="val", help="default: %(default)s"
    )
    parser.add_argument(
        "--zeroshot", type=Path, metavar="SET",
        help=f"a folder with one of images a class, webdataset shards, or Parquet (default: {ZEROSHOT})",
    )  # fmt: skip
    parser.add_argument(
        "--prompts", type=Path, default=Path("data/zeroshot_prompts.json"), metavar="FILE",
        help="JSON: templates, and names of classes (default: %(default)s)",
    )  # fmt: skip
    parser.add_argument("--seed", type=int, default=2311, help="of the intervals (default: %(default)s)")
    parser.add_argument("--all", action="store_true", help="every metric, not the headlines alone")
    parser.add_argument("--json", type=Path, metavar="FILE", help="also write the numbers here")
