"""`safeclip data`: bring captions and pictures of one's own, look at a data set, purge generated data."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

from safeclip.commands import data_baseline

Commands = Any  # argparse's own class of subparsers, which has no public name


def register(commands: Commands) -> None:
    """Add `data` with its own commands."""
    data = commands.add_parser(
        "data", help="import, describe, accept or purge data", epilog="example: safeclip data describe"
    )
    topics = data.add_subparsers(title="commands", metavar="COMMAND", required=True)
    _add_import(topics)
    _add_describe(topics)
    _add_purge(topics)
    data_baseline.register(topics)


def import_(options: argparse.Namespace) -> int:
    """Captions and pictures -> a data folder that the chain runs on."""
    from safeclip.core.checkpoints import WORK
    from safeclip.data.importing import REPORT, ImportPlan, import_data
    from safeclip.data.rows import Limits, summary_lines
    from safeclip.pipeline.graph import project_root
    from safeclip.settings import load_settings

    root = project_root()
    settings = load_settings(root / "params.yaml")
    bounds = settings.validate_data
    plan = ImportPlan(
        source=options.source,
        out=options.out,
        base=options.base or root / settings.data.path,
        work=root / WORK / "import",
        limits=Limits(
            max_words=options.max_words or bounds.max_caption_words,
            min_side=options.min_side or bounds.min_image_side,
            max_side=options.max_side,
        ),
        near_levels=bounds.near_duplicate_levels,
        images=options.images,
        zeroshot=options.zeroshot,
        val=options.val,
        test=options.test,
        max_rejected=options.max_rejected,
        check_fit=not options.no_fit_check,
        drop_suspects=options.drop_suspects,
        seed=settings.seed,
        workers=settings.compute.workers,
    )
    done = import_data(plan)
    print("\n".join(summary_lines(done.remarks)))
    rows = ", ".join(f"{split} {count}" for split, count in done.splits.items())
    print(f"{options.out}: {sum(done.splits.values())} of {done.items} items ({rows})")
    print(f"report  {options.out / REPORT}")
    print(f"next    set `data.path: {options.out}` in params.yaml; then")
    print(f"        dvc add {options.out} && dvc push {options.out}.dvc")
    return 0


def describe(options: argparse.Namespace) -> int:
    """Counts, splits, lengths, categories, what changed since another version, and a contact sheet."""
    from safeclip.core.artifacts import DATASET
    from safeclip.data.describing import (
        change_lines,
        describe_folder,
        describe_rows,
        histogram,
        summary_lines,
    )
    from safeclip.pipeline.data_diff import data_diff
    from safeclip.pipeline.graph import project_root
    from safeclip.settings import load_settings
    from safeclip.synthesis.captions import load_captions

    root = project_root()
    settings = load_settings(root / "params.yaml")
    name = str(options.folder or settings.data.path)
    captions = load_captions(root / name / "captions.jsonl")
    facts, rows = describe_folder(root / name), describe_rows(root / DATASET)
    diff = data_diff(root, name, options.against)
    changes = change_lines(diff.captions, captions, diff.files)
    print("\n".join(summary_lines(name, facts, rows, options.against, changes)))
    if options.sheet:
        from safeclip.data.sheet import generated_tiles, make_sheet, safe_tiles

        tiles = safe_tiles(root / name, captions, options.rows, settings.seed)
        change = {"revision": options.against, "lines": changes}
        quadruplets = generated_tiles(root / DATASET, options.rows)
        page = make_sheet(facts, rows, change, histogram(captions), tiles, quadruplets)
        options.sheet.write_text(page, encoding="utf-8")
        print(f"sheet   {options.sheet}")
    return 0


def purge(options: argparse.Namespace) -> int:
    """Delete generated unsafe data from results, scratch, cache and remotes; registered versions are kept."""
    from safeclip.pipeline.graph import project_root
    from safeclip.pipeline.purge import purge as delete

    done = delete(project_root(), older_than=options.older_than, dry_run=options.dry_run)
    print("\n".join(done.summary_lines(dry_run=options.dry_run)))
    return 0


def _add_import(topics: Commands) -> None:
    parser = topics.add_parser(
        "import",
        help="make a data set from captions and pictures of your own",
        description=import_.__doc__,
        epilog="examples: safeclip data import captions_val2017.json --images val2017 --out photos; "
        "safeclip data import list.csv --out photos; safeclip data import shards/ --out photos",
    )
    parser.set_defaults(command=import_)
    parser.add_argument(
        "source",
        type=Path,
        metavar="SOURCE",
        help="COCO .json; .jsonl, .csv or .tsv of file and caption; .tar shards; or a folder of one",
    )
    for flag, kind, default, metavar, text in _IMPORT_OPTIONS:
        parser.add_argument(
            flag, type=kind, default=default, metavar=metavar, help=text, required=flag == "--out"
        )
    for flag, text in _IMPORT_SWITCHES:
        parser.add_argument(flag, action="store_true", help=text)


def _add_describe(topics: Commands) -> None:
    parser = topics.add_parser(
        "describe",
        help="a data set in numbers, and what changed",
        description=describe.__doc__,
        epilog="examples: safeclip data describe; safeclip data describe --against HEAD~1 --sheet sheet.html",
    )
    parser.set_defaults(command=describe)
    add = parser.add_argument
    add(
        "folder",
        nargs="?",
        type=Path,
        metavar="FOLDER",
        help="a data folder (default: data.path of params.yaml)",
    )
    add(
        "--against",
        default="HEAD",
        metavar="REVISION",
        help="git revision to compare with (default: %(default)s)",
    )
    add(
        "--sheet",
        type=Path,
        metavar="FILE",
        help="write a contact sheet (HTML; generated pictures are blurred)",
    )
    add(
        "--rows",
        type=positive,
        default=8,
        metavar="N",
        help="rows of each split on it (default: %(default)s)",
    )


def _add_purge(topics: Commands) -> None:
    parser = topics.add_parser(
        "purge",
        help="delete generated unsafe data",
        description=purge.__doc__,
        epilog="examples: safeclip data purge --dry-run; safeclip data purge --older-than 30",
    )
    parser.set_defaults(command=purge)
    parser.add_argument("--dry-run", action="store_true", help="only say what would be deleted")
    parser.add_argument("--older-than", type=days, metavar="DAYS", help="only what was made longer ago")


def days(text: str) -> float:
    """A number of days from 0, for argparse."""
    value = float(text)
    if not value >= 0.0:
        raise ValueError(text)
    return value


def positive(text: str) -> int:
    """A whole number from 1, for argparse."""
    value = int(text)
    if value < 1:
        raise ValueError(text)
    return value


def share(text: str) -> float:
    """A number from 0 to 1, for argparse."""
    value = float(text)
    if not 0.0 <= value <= 1.0:
        raise ValueError(text)
    return value


_IMPORT_OPTIONS: tuple[tuple[str, Any, Any, str, str], ...] = (
    ("--out", Path, None, "FOLDER", "the data folder to make; must not exist"),
    ("--images", Path, None, "FOLDER", "where the file names start (default: beside SOURCE)"),
    (
        "--base",
        Path,
        None,
        "FOLDER",
        "data folder whose taxonomy, curated pairs and base encoder are taken over (default: data.path)",
    ),
    (
        "--zeroshot",
        str,
        "keep",
        "FOLDER",
        "`keep` that of --base, `none`, or a folder with a folder of pictures a class; without a zero-shot "
        "set nothing passes the gate (default: %(default)s)",
    ),
    ("--val", share, 0.1, "SHARE", "of the groups of like items (default: %(default)s)"),
    ("--test", share, 0.1, "SHARE", "of the groups of like items (default: %(default)s)"),
    (
        "--max-words",
        positive,
        None,
        "N",
        "longer captions keep their first sentences (default: as validated)",
    ),
    ("--min-side", positive, None, "PIXELS", "smaller pictures are rejected (default: as validated)"),
    ("--max-side", positive, 512, "PIXELS", "larger pictures are scaled down (default: %(default)s)"),
    ("--max-rejected", share, 0.5, "SHARE", "a larger share stops the import (default: %(default)s)"),
)
_IMPORT_SWITCHES = (
    ("--drop-suspects", "reject what may be mislabelled; otherwise it is reported and kept"),
    ("--no-fit-check", "do not ask the base encoder whether captions fit their pictures"),
)
