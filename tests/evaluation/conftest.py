"""What the reviewer's page is made of, as one run left it."""

from __future__ import annotations

import pytest

from tests.evaluation.page_evidence import picture, rule, spread, tree


@pytest.fixture
def evidence() -> dict:
    change = tree(-0.6, -0.01)
    change["zeroshot"]["top1"] = spread(-0.1, 600)
    unmeasured = {"estimate": None, "low": None, "high": None, "n": 0}
    return {
        "title": "a candidate",
        "verdict": {
            "passed": False,
            "rules": [rule("kept", True), rule("broken", False), rule("never", True, **unmeasured)],
            "digests": {"candidate_adapter": "abc123"},
        },
        "metrics": {
            "candidate": {}, "base": {}, "production": None, "n": {"scenes": 2000, "zeroshot": 600},
            "intervals": {"candidate": tree(0.3, 0.95), "base": tree(0.9, 0.96), "change": change},
        },
        "data": {
            "rows": {"in": 75, "out": 69, "quarantined": 5, "destroyed": 1},
            "splits": {"train": 40, "val": 9, "test": 20},
            "expectations": [{"passed": True}],
            "label_states": {"train": {"both_unsafe": 0.7, "neither_unsafe": None}},
            "quarantine": {"validate_data": {"image score is outside 0 to 1": 2}},
        },
        "history": [{"step": 1.0 * s, "total_loss": 2.0 / s, "val_harmful_t2i": None} for s in range(1, 9)],
        "pictures": {"unsafe prompts": picture()},
    }  # fmt: skip
