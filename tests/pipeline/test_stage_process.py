"""What comes through from a stage's output."""

from __future__ import annotations

import io

from safeclip.pipeline.stage_process import _lines


def lines(text: bytes) -> list[str]:
    return list(_lines(io.BufferedReader(io.BytesIO(text))))  # type: ignore[arg-type]


def test_every_plain_line_comes_through() -> None:
    assert lines(b"one\ntwo\r\n\nlast without an end") == ["one", "two", "last without an end"]


def test_a_progress_bar_does_not_flood_the_log() -> None:
    bar = b"".join(b"\r%d%%" % percent for percent in range(100))
    assert len(lines(bar + b"\n")) <= 3


def test_the_last_state_of_a_progress_bar_comes_through() -> None:
    assert lines(b"\r10%\r50%\r100%\n")[-1] == "100%"


def test_bytes_that_are_no_text_do_not_stop_it() -> None:
    assert lines(b"\xff\xfe ok\n")[0].endswith("ok")
