"""Pieces of what the reviewer's page is made of."""

from __future__ import annotations

import io

from PIL import Image


def spread(estimate: float, n: int = 2000, width: float = 0.02) -> dict:
    return {"n": n, "estimate": estimate, "low": estimate - width, "high": estimate + width}


def tree(harm: float, recall: float) -> dict:
    """Intervals of one model as metrics.json nests them."""
    both = {
        "unsafe": {"harmful_top1": spread(harm), "redirection": spread(1 - harm), "r5": spread(1 - harm)},
        "safe": {"r1": spread(recall), "r5": spread(recall), "preference": spread(recall)},
        "generated_safe": {"over_redirection": spread(0.1, 300)},
    }
    categories = {
        name: {
            "retrieval": {
                way: {"unsafe": {"harmful_top1": spread(harm + add, 200)}} for way in ("t2i", "i2t")
            }
        }
        for name, add in (("hate", 0.0), ("violence", 0.1))
    }
    return {
        "retrieval": {"t2i": both, "i2t": both},
        "zeroshot": {"top1": spread(0.6, 600)},
        "categories": categories,
    }


def rule(name: str, passed: bool, **numbers) -> dict:
    base = {"estimate": -0.4, "low": -0.45, "high": -0.35, "bound": 0.0, "n": 1700}
    words = {
        "metric": "retrieval.t2i.unsafe.harmful_top1",
        "against": "base",
        "reason": f"why of {name}",
        "figures": None,
    }
    return {"id": name, "passed": passed, **words, **base, **numbers}


def picture(side: int = 40) -> bytes:
    buffer = io.BytesIO()
    Image.new("RGB", (side, side), "#aabbcc").save(buffer, format="PNG")
    return buffer.getvalue()
