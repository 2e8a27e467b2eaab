"""`safeclip data`: import captions and images, look at a data set, accept it, purge generated data."""

from __future__ import annotations

import argparse
from collections.abc import Callable
from pathlib import Path

from safeclip.commands.subcommands import Commands, adder


def import_(options: argparse.Namespace) -> int:
    """Captions and images -> a data folder that the chain runs on."""
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
        from safeclip.core.parts import make_part
        from safeclip.data.sheet import generated_tiles, make_sheet, safe_tiles

        render = settings.render_images
        photos = make_part(render.photos, render.image_size, seed=settings.seed)
        tiles = safe_tiles(root / name, captions, options.rows, photos)
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


def baseline(options: argparse.Namespace) -> int:
    """Write release/data_baseline.json from the summary of `validate_data`; shares alone, no text."""
    import json

    from safeclip.core.artifacts import DATA_BASELINE, DATA_SUMMARY
    from safeclip.core.errors import DataError
    from safeclip.core.files import write_text
    from safeclip.pipeline.graph import project_root
    from safeclip.validation.health import distributions

    root = project_root()
    try:
        summary = json.loads((root / DATA_SUMMARY).read_text(encoding="utf-8"))
        accepted = distributions(summary)
    except (OSError, ValueError, KeyError) as error:
        raise DataError(f"{DATA_SUMMARY}: not readable ({error!r}); run the stage validate_data") from None
    write_text(root / DATA_BASELINE, json.dumps(accepted, indent=1, sort_keys=True) + "\n")
    print(f"{DATA_BASELINE}: {sum(summary['splits'].values())} rows accepted; commit it")
    return 0


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


def register(commands: Commands[argparse.ArgumentParser]) -> None:
    """Add `data` with its own commands."""
    group = commands.add_parser(
        "data", help="import, describe, accept or purge data", epilog="example: safeclip data describe"
    )
    add = adder(group.add_subparsers(title="commands", metavar="COMMAND", required=True))
    _add_import_arguments(
        add(
            import_,
            "make a data set from captions and images of your own",
            "safeclip data import captions_val2017.json --images val2017 --out photos",
            "safeclip data import list.csv --out photos",
            "safeclip data import shards/ --out photos",
        ).add_argument
    )
    argument = add(
        describe,
        "a data set in numbers, and what changed",
        "safeclip data describe",
        "safeclip data describe --against HEAD~1 --sheet sheet.html",
    ).add_argument
    argument(
        "folder", nargs="?", type=Path, metavar="FOLDER",
        help="a data folder (default: data.path of params.yaml)",
    )  # fmt: skip
    argument(
        "--against", default="HEAD", metavar="REVISION",
        help="git revision to compare with (default: %(default)s)",
    )  # fmt: skip
    argument(
        "--sheet", type=Path, metavar="FILE",
        help="write a contact sheet (HTML; generated images are blurred)",
    )  # fmt: skip
    argument(
        "--rows", type=positive, default=8, metavar="N",
        help="rows of each split on it (default: %(default)s)",
    )  # fmt: skip
    argument = add(
        purge,
        "delete generated unsafe data",
        "safeclip data purge --dry-run",
        "safeclip data purge --older-than 30",
    ).add_argument
    argument("--dry-run", action="store_true", help="only say what would be deleted")
    argument("--older-than", type=days, metavar="DAYS", help="only what was made longer ago")
    add(
        baseline,
        "accept the validated data set: later ones warn when they drift from it",
        "safeclip data baseline && git commit release/data_baseline.json -m 'Data accepted'",
    )


def _add_import_arguments(argument: Callable[..., argparse.Action]) -> None:
    argument(
        "source", type=Path, metavar="SOURCE",
        help="COCO .json; .jsonl, .csv or .tsv of file and caption; .tar shards; or a folder of one",
    )  # fmt: skip
    argument(
        "--out", type=Path, metavar="FOLDER", required=True, help="the data folder to make; must not exist"
    )
    argument(
        "--images", type=Path, metavar="FOLDER", help="where the file names start (default: beside SOURCE)"
    )
    argument(
        "--base", type=Path, metavar="FOLDER",
        help="data folder whose taxonomy, curated pairs and base encoder are taken over (default: data.path)",
    )  # fmt: skip
    argument(
        "--zeroshot", default="keep", metavar="FOLDER",
        help="`keep` that of --base, `none`, or a folder with a folder of images a class; without a "
        "zero-shot set nothing passes the gate (default: %(default)s)",
    )  # fmt: skip
    for split in ("val", "test"):
        argument(
            f"--{split}", type=share, default=0.1, metavar="SHARE",
            help="of the groups of like items (default: %(default)s)",
        )  # fmt: skip
    argument(
        "--max-words", type=positive, metavar="N",
        help="longer captions keep their first sentences (default: as validated)",
    )  # fmt: skip
    argument(
        "--min-side", type=positive, metavar="PIXELS",
        help="smaller images are rejected (default: as validated)",
    )  # fmt: skip
    argument(
        "--max-side", type=positive, default=512, metavar="PIXELS",
        help="larger images are scaled down (default: %(default)s)",
    )  # fmt: skip
    argument(
        "--max-rejected", type=share, default=0.5, metavar="SHARE",
        help="a larger share stops the import (default: %(default)s)",
    )  # fmt: skip
    argument(
        "--drop-suspects", action="store_true",
        help="reject what may be mislabelled; otherwise it is reported and kept",
    )  # fmt: skip
    argument(
        "--no-fit-check", action="store_true",
        help="do not ask the base encoder whether captions fit their images",
    )  # fmt: skip
