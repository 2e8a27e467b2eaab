"""The frontier's picture: every name can be read."""

from __future__ import annotations

import re
from itertools import pairwise

from safeclip.report.figures import frontier

FIGURES = {"harmful_t2i": 0.1, "harmful_i2t": 0.1, "safe_r1_drop": 0.01, "zeroshot_drop": 0.01}


def test_names_that_belong_at_one_place_stand_under_each_other() -> None:
    points = [
        {"objective": name, "share": share, **FIGURES}
        for name in ("default", "relative")
        for share in (0.5, 1.0)
    ]
    drawn = frontier(points, (0.01, 0.1))
    heights = [float(height) for height in re.findall(r'y="([0-9.]+)">(?:default|relative|this run)<', drawn)]
    assert len(heights) == 3
    assert all(below - above >= 12 for above, below in pairwise(heights))
    assert 'class="told"' in drawn
