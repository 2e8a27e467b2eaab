"""What every stage shares: an entry point that fails in one line, outputs that appear whole or not at all."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import NoReturn

from safeclip.core.artifacts import PARAMS, RESULTS
from safeclip.core.errors import SafeclipError
from safeclip.core.files import replacing, storage_fault
from safeclip.core.permissions import restrict
from safeclip.core.processes import die_with_starter, hold_alone
from safeclip.settings import Settings, load_settings


def main(body: Callable[[Settings], None]) -> None:
    """Run a stage, named after its function, from the project's root.

    All of params.yaml is checked first. Files are readable by the owner only. One process of a stage runs at
    a time (of each rank, where torchrun started several), and dies with whoever started it.

    Raises:
        SystemExit: Status 1, with one line on standard error, for a `SafeclipError` and for a disk that is
            full or read-only.
    """
    die_with_starter()
    os.umask(0o077)
    restrict(Path())  # DVC caches the outputs with the caller's umask, results/ may be from a checkout
    try:
        settings = load_settings(PARAMS)
        hold_alone(body.__name__ + os.environ.get("LOCAL_RANK", "0").lstrip("0"))
        _set_threads(settings.compute.threads)
        body(settings)
    except SafeclipError as error:
        _fail(str(error))
    except Exception as error:
        if (fault := storage_fault(error)) is None:
            raise
        _fail(f"{body.__name__}: {fault}")


def _fail(message: str) -> NoReturn:
    print(f"error: {message}", file=sys.stderr)
    raise SystemExit(1) from None


def _set_threads(threads: int) -> None:
    os.environ["OMP_NUM_THREADS"] = str(threads)
    if "torch" in sys.modules:
        import torch

        torch.set_num_threads(threads)


@contextmanager
def output(name: str) -> Iterator[Path]:
    """A folder that becomes results/NAME when the block ends well, and vanishes when it does not."""
    with replacing(RESULTS / name) as partial:
        partial.mkdir()
        yield partial
