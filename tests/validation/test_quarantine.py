"""Nothing is dropped silently: every row is out, quarantined or destroyed, and the books say which."""

import pyarrow as pa

from safeclip.core.records import QUARANTINE
from safeclip.validation.contract import Finding
from safeclip.validation.quarantine import Account, by_reason, gather, imbalances, reject, totals


def quarantine(*entries: tuple[str, str, str]) -> pa.Table:
    rows = [{"id": i, "stage": s, "reason": r} for i, s, r in entries]
    return pa.Table.from_pylist(rows, schema=QUARANTINE)


EARLIER = quarantine(
    ("a1", "rewrite_captions", "no answer"),
    ("a2", "rewrite_captions", "too long"),
    ("b1", "render_images", "no word"),
)
ACCOUNTS = (
    Account("rewrite_captions", 76, 73, 2, 1),
    Account("render_images", 73, 72, 1),
)


def test_the_chain_balances_with_earlier_losses(judged, rows):
    rows.loc[3, "image_score"] = 7.0
    accounts = (Account("rewrite_captions", 74, 71, 2, 1), Account("render_images", 71, 70, 1))
    judgement = judged(rows, earlier=accounts, earlier_quarantine=EARLIER)
    assert not judgement.failures
    assert totals(judgement.accounts) == {"in": 74, "out": 69, "quarantined": 4, "destroyed": 1}
    assert judgement.quarantine["id"].to_pylist() == ["a1", "a2", "b1", "row-0003"]


def test_rows_that_vanish_between_stages_fail(judged, rows):
    judgement = judged(rows, earlier=ACCOUNTS, earlier_quarantine=EARLIER)
    assert [finding.name for finding in judgement.failures] == ["rows_add_up"]
    assert "render_images sent 72 rows and validate_data received 70" in judgement.complaint()


def test_each_way_of_losing_a_row_is_told():
    lossy = (Account("rewrite_captions", 76, 70, 2, 1), Account("render_images", 70, 69, 1))
    assert imbalances(lossy, EARLIER) == ["rewrite_captions lost 3 of 76 rows"]
    unlisted = (Account("rewrite_captions", 76, 72, 3, 1), Account("render_images", 72, 71, 1))
    assert "rewrite_captions counts 3 quarantined rows and lists 2" in imbalances(unlisted, EARLIER)
    twice = gather([EARLIER, quarantine(("a1", "render_images", "again"))])
    assert any("quarantined twice (first: a1)" in fault for fault in imbalances(ACCOUNTS, twice))


def test_a_row_with_two_faults_is_one_row_and_two_reasons():
    findings = [
        Finding("one", "row", "", False, 1, ("x",), "reason one"),
        Finding("two", "row", "", False, 2, ("w", "x"), "reason two"),
        Finding("all", "data set", "", False, 0.1),
    ]
    rejected = reject(findings)
    assert rejected.to_pylist() == [
        {"id": "w", "stage": "validate_data", "reason": "reason two"},
        {"id": "x", "stage": "validate_data", "reason": "reason one; reason two"},
    ]
    assert by_reason(rejected) == {"validate_data": {"reason one": 1, "reason two": 2}}
