"""The real project in a folder of its own, at a size of 40 rows: for tests that run the whole chain."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path
from typing import Any

from ruamel.yaml import YAML

from tests.toy import PROJECT, run

TINY: dict[str, dict[str, Any]] = {
    "data": {"train": 24, "val": 8, "test": 8},
    "tune_rewriter": {"epochs": 1},
    "rewrite_captions": {"batch_size": 8, "max_lost": 1.0},
    "validate_data": {
        "min_rows": 8,
        "max_quarantined": 0.9,
        "min_unsafe_text": 0.0,
        "min_unsafe_image": 0.0,
        "max_state_share": 1.0,
        "min_similarity": 0.0,
        "min_category_share": 0.0,
    },
    "finetune": {"steps": 4, "batch_size": 8, "warmup_steps": 1, "validate_every": 2, "checkpoint_every": 2},
    "evaluate": {"bootstrap": 100, "grid_queries": 2},
}
"""What differs from params.yaml; the gate's rules stay, and fail: eight test rows measure nothing."""


def make_chain(folder: Path) -> Path:
    """Copy this checkout (committed or not, nothing ignored) to `folder` as a git repository with tiny params."""
    listed = subprocess.run(
        ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"],
        cwd=PROJECT,
        capture_output=True,
        text=True,
        check=True,
    )
    for name in filter(None, listed.stdout.split("\0")):
        if (PROJECT / name).is_file():
            (folder / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy2(PROJECT / name, folder / name)
    run(folder, "git", "init", "-q")
    set_tiny_params(folder)
    return folder


def set_tiny_params(folder: Path, **sections: dict[str, Any]) -> None:
    """Write TINY, and `sections` over it, into the folder's params.yaml."""
    yaml = YAML()
    params = yaml.load(PROJECT / "params.yaml")
    for changes in (TINY, sections):
        for name, values in changes.items():
            params[name].update(values)
    with (folder / "params.yaml").open("w") as file:
        yaml.dump(params, file)
