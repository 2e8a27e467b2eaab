"""The real project in a folder of its own, at a size of 40 rows: for tests that run the whole chain."""

from __future__ import annotations

import shutil
from dataclasses import dataclass
from pathlib import Path
from subprocess import CompletedProcess

from safeclip.pipeline.checkout import copy_checkout, override_params, tiny_params
from tests.support.toy import PROJECT, run


@dataclass(frozen=True)
class TinyChain:
    """A folder in which the flow has run once, and how that went."""

    root: Path
    first_run: CompletedProcess[str]


def run_tiny_chain(folder: Path) -> TinyChain:
    """Copy this checkout, as a fresh clone with tiny params, and run the flow in it through every stage."""
    from safeclip.synthesis.language_model import CACHE, NAME, model_folder  # imports torch

    root = copy_checkout(PROJECT, folder)
    override_params(root, tiny_params(root))
    model_folder(NAME, PROJECT / CACHE)  # converted once a checkout: half a minute that every copy would pay
    (root / CACHE).parent.mkdir()
    (root / CACHE).symlink_to(PROJECT / CACHE)
    return TinyChain(root, run(root, "safeclip", "run", timeout=2400))


def copy_chain(chain: TinyChain, folder: Path) -> Path:
    """A copy to change things in: results, cache and DVC's records of them included."""
    return Path(shutil.copytree(chain.root, folder, symlinks=True))
