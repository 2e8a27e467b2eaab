"""`python -m safeclip.pipeline.dvc_child ARGUMENTS`: the dvc command, except that it dies with its parent.

With it go the stage and whatever the stage started: they share its process group, and watch it. What it
writes (the cache too) is readable by its owner only, because some of it is unsafe by purpose. `python` in a
stage's command means this environment's, activated or not. And a kill never leaves half a dvc.lock: DVC
writes it in place, here it is renamed into its place.
"""

from __future__ import annotations

import os
import signal
import sys
from pathlib import Path
from typing import Any

from safeclip.modes import restrict
from safeclip.process import PARENT, die_with_starter

SCRATCH = Path(".dvc/tmp")


def main() -> int:
    """Run dvc with this process's arguments, waiting for the repository's lock; returns its exit status."""
    signal.signal(signal.SIGTERM, lambda *_: os.killpg(os.getpgrp(), signal.SIGKILL))
    die_with_starter(signal.SIGTERM)
    os.environ[PARENT] = str(os.getpid())
    os.umask(0o077)
    restrict(Path())
    os.environ["PATH"] = os.pathsep.join(
        [str(Path(sys.executable).parent), os.environ.get("PATH", os.defpath)]
    )
    from dvc.cli import main as dvc

    write_yaml_at_once()
    return dvc(["--wait-for-lock", *sys.argv[1:]])


def write_yaml_at_once() -> None:
    """Have DVC write dvc.lock to a temporary place and rename it (a method of the release that is pinned)."""
    from dvc.utils.serialize import _common

    in_place = _common._dump_data

    def dump(path: str, data: Any, dumper: Any, fs: Any = None, **options: Any) -> None:
        partial = SCRATCH / f"{Path(path).name}.{os.getpid()}"
        in_place(str(partial), data, dumper, fs=None, **options)
        partial.chmod(Path(path).stat().st_mode & 0o777 if Path(path).exists() else 0o644)
        os.replace(partial, path)

    _common._dump_data = dump


if __name__ == "__main__":
    sys.exit(main())
