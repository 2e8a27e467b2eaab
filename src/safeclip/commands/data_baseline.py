"""`safeclip data baseline`: accept the validated data set as the one that later ones are compared with."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

SUMMARY = Path("results/validate_data/summary.json")


def register(topics: Any) -> None:
    """Add `baseline` to the commands of `safeclip data`."""
    parser = topics.add_parser(
        "baseline",
        help="accept the validated data set: later ones warn when they drift from it",
        epilog="example: safeclip data baseline && git commit data_baseline.json -m 'Data accepted'",
    )
    parser.set_defaults(command=accept)


def accept(options: argparse.Namespace) -> int:
    """Write data_baseline.json from the summary of `validate_data`; shares alone, no text."""
    import json

    from safeclip.core.artifacts import DATA_BASELINE
    from safeclip.core.errors import DataError
    from safeclip.core.files import write_text
    from safeclip.pipeline.graph import project_root
    from safeclip.validation.health import distributions

    root = project_root()
    try:
        summary = json.loads((root / SUMMARY).read_text(encoding="utf-8"))
        accepted = distributions(summary)
    except (OSError, ValueError, KeyError) as error:
        raise DataError(f"{SUMMARY}: not readable ({error!r}); run the stage validate_data") from None
    write_text(root / DATA_BASELINE, json.dumps(accepted, indent=1, sort_keys=True) + "\n")
    print(f"{DATA_BASELINE}: {sum(summary['splits'].values())} rows accepted; commit it")
    return 0
