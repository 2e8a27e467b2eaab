"""Words that two captions share."""

from __future__ import annotations

import pytest

from safeclip.core.text import ordered_overlap


def test_words_in_the_same_order_are_counted_whatever_their_case() -> None:
    assert ordered_overlap("a man runs", "a man runs") == 1.0
    assert ordered_overlap("a man runs", "two dogs") == 0.0
    assert ordered_overlap("a man runs", "A man walks") == pytest.approx(2 / 3)
