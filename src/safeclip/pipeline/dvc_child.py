"""`python -m safeclip.pipeline.dvc_child ARGUMENTS`: the dvc command, except that it dies with its parent.

With it go the stage and whatever the stage started: they share its process group. What it writes (the cache
too) is readable by its owner only, because some of it is unsafe by purpose. `python` in a stage's command
means this environment's, activated or not.
"""

from __future__ import annotations

import os
import signal
import sys
from pathlib import Path

from safeclip.stages.stage import die_with_parent

CACHE = Path(".dvc/cache")


def main() -> int:
    """Run dvc with this process's arguments, waiting for the repository's lock; returns its exit status."""
    signal.signal(signal.SIGTERM, lambda *_: os.killpg(os.getpgrp(), signal.SIGKILL))
    die_with_parent(signal.SIGTERM)
    os.umask(0o077)
    CACHE.mkdir(parents=True, exist_ok=True)
    CACHE.chmod(0o700)  # a plain `dvc pull` may have made it for all to read
    os.environ["PATH"] = os.pathsep.join(
        [str(Path(sys.executable).parent), os.environ.get("PATH", os.defpath)]
    )
    from dvc.cli import main as dvc

    return dvc(["--wait-for-lock", *sys.argv[1:]])


if __name__ == "__main__":
    sys.exit(main())
