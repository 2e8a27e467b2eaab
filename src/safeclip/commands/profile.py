"""`safeclip profile`: write a profile's values into params.yaml."""

from __future__ import annotations

import argparse


def profile(options: argparse.Namespace) -> int:
    """Write the values of params/NAME.yaml into params.yaml, checked first; comments and the rest stay."""
    from safeclip.pipeline.checkout import apply_profile
    from safeclip.pipeline.graph import project_root

    root = project_root()
    changed = apply_profile(root, options.name)
    print(
        f"params.yaml: {', '.join(changed) or 'nothing'} changed; `safeclip run` reruns what that makes stale"
    )
    return 0
