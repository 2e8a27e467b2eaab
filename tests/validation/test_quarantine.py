"""Nothing is dropped silently: every row is out, quarantined or destroyed, and the books say which."""

from safeclip.core.records import QUARANTINE
from safeclip.validation.contract import CheckResult
from safeclip.validation.quarantine import (
    Account,
    Rejection,
    by_reason,
    imbalances,
    quarantine_table,
    read_rejections,
    reject,
    totals,
)

EARLIER = [
    Rejection("a1", "rewrite_captions", ("no answer",)),
    Rejection("a2", "rewrite_captions", ("too long",)),
    Rejection("b1", "render_images", ("no word",)),
]
ACCOUNTS = (
    Account("rewrite_captions", 76, 73, 2, 1),
    Account("render_images", 73, 72, 1),
)


def test_the_chain_balances_with_earlier_losses(validated, rows):
    rows.loc[3, "image_score"] = 7.0
    accounts = (Account("rewrite_captions", 74, 71, 2, 1), Account("render_images", 71, 70, 1))
    validation = validated(rows, earlier=accounts, earlier_rejections=EARLIER)
    assert not validation.failures
    assert totals(validation.accounts) == {"in": 74, "out": 69, "quarantined": 4, "destroyed": 1}
    assert quarantine_table(validation.rejections)["id"].to_pylist() == ["a1", "a2", "b1", "row-0003"]


def test_rows_that_vanish_between_stages_fail(validated, rows):
    validation = validated(rows, earlier=ACCOUNTS, earlier_rejections=EARLIER)
    assert [result.name for result in validation.failures] == ["rows_add_up"]
    assert "render_images sent 72 rows and validate_data received 70" in validation.complaint()


def test_each_way_of_losing_a_row_is_told():
    lossy = (Account("rewrite_captions", 76, 70, 2, 1), Account("render_images", 70, 69, 1))
    assert imbalances(lossy, EARLIER) == ["rewrite_captions lost 3 of 76 rows"]
    unlisted = (Account("rewrite_captions", 76, 72, 3, 1), Account("render_images", 72, 71, 1))
    assert "rewrite_captions counts 3 quarantined rows and lists 2" in imbalances(unlisted, EARLIER)
    twice = [*EARLIER, Rejection("a1", "render_images", ("again",))]
    assert any("quarantined twice (first: a1)" in fault for fault in imbalances(ACCOUNTS, twice))


def test_a_row_with_two_faults_is_one_row_and_two_reasons():
    results = [
        CheckResult("one", "row", "", False, 1, ("x",), "reason one"),
        CheckResult("two", "row", "", False, 2, ("w", "x"), "reason two"),
        CheckResult("all", "data set", "", False, 0.1),
    ]
    rejected = reject(results)
    assert rejected == [
        Rejection("w", "validate_data", ("reason two",)),
        Rejection("x", "validate_data", ("reason one", "reason two")),
    ]
    assert by_reason(rejected) == {"validate_data": {"reason one": 1, "reason two": 2}}


def test_the_table_has_a_row_for_each_rejection_by_id_then_stage():
    rejections = [Rejection("x", "validate_data", ("reason one", "reason two")), *reversed(EARLIER)]
    table = quarantine_table(rejections)
    assert table.schema == QUARANTINE
    assert table["id"].to_pylist() == ["a1", "a2", "b1", "x"]
    assert table["reason"].to_pylist()[-1] == "reason one; reason two"
    assert read_rejections(table)[:3] == EARLIER
