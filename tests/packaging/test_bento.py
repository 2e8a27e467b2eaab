"""A Bento's bytes do not tell when it was built, nor by which patch release of Python."""

from __future__ import annotations

from safeclip.packaging.bento import without_stamps

DESCRIBED = "version: 682117\ncontext:\n  python_version: {python}\ncreation_time: '{time}'\n"


def test_two_builds_of_the_same_things_are_described_alike() -> None:
    one = DESCRIBED.format(python="3.11.2", time="2026-01-02T03:04:05+00:00")
    other = DESCRIBED.format(python="3.11.13", time="2027-01-02T03:04:05+00:00")
    assert without_stamps(one) == without_stamps(other)
    assert "  python_version: '3.11'\n" in without_stamps(one)


def test_what_differs_otherwise_is_kept() -> None:
    one = DESCRIBED.format(python="3.11.2", time="2026-01-02T03:04:05+00:00")
    assert without_stamps(one) != without_stamps(one.replace("3.11.2", "3.12.2"))
    assert without_stamps("python_version: '3.11'\n") == "python_version: '3.11'\n"
