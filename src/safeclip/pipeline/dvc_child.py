"""`python -m safeclip.pipeline.dvc_child ARGUMENTS`: the dvc command, except that it dies with its parent.

What it writes (the cache too) is readable by its owner only, because some of it is unsafe by purpose.
"""

from __future__ import annotations

import os
import sys

from safeclip.stages.stage import die_with_parent


def main() -> int:
    """Run dvc with this process's arguments, waiting for the repository's lock; returns its exit status."""
    die_with_parent()
    os.umask(0o077)
    from dvc.cli import main as dvc

    return dvc(["--wait-for-lock", *sys.argv[1:]])


if __name__ == "__main__":
    sys.exit(main())
