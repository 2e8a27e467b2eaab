"""A plan with small defaults: the project's own data folder gives taxonomy, pairs and base encoder."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from safeclip.data.importing import ImportPlan
from safeclip.data.rows import Limits
from tests.support.toy import PROJECT

LIMITS = Limits(max_words=40, min_side=32, max_side=128)


@pytest.fixture
def plan(tmp_path: Path) -> Callable[..., ImportPlan]:
    def make(source: Path, **changes: Any) -> ImportPlan:
        given = {
            "out": tmp_path / "made",
            "work": tmp_path.with_name(f"{tmp_path.name}-work"),
            "check_fit": False,
            "val": 0.2,
            "test": 0.3,
        }
        return ImportPlan(
            source=source, base=PROJECT / "data", limits=LIMITS, near_levels=3.0, **(given | changes)
        )

    return make
