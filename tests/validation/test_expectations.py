"""The run is trusted only when each expectation asked has come back."""

import great_expectations.expectations as gxe
import pytest
from great_expectations.execution_engine import PandasExecutionEngine
from great_expectations.expectations import registry
from great_expectations.expectations.expectation import ColumnMapExpectation
from great_expectations.expectations.metrics import ColumnMapMetricProvider, column_condition_partial

from safeclip.core.errors import DataError
from safeclip.validation.contract import DataCheck, dataset_checks, match_results, row_checks, run
from safeclip.validation.facts import MAX_PIXELS, image_fault, measure
from tests.validation.conftest import BOUNDS, CATEGORIES, png


class ColumnValuesAreShort(ColumnMapMetricProvider):
    condition_metric_name = "column_values.safeclip_short"
    condition_value_keys = ()

    @column_condition_partial(engine=PandasExecutionEngine)
    def _pandas(cls, column, **_):
        return column.str.len() < 1000


class ExpectColumnValuesToBeShort(ColumnMapExpectation):
    """An expectation of our own, to be lost."""

    map_metric = "column_values.safeclip_short"


def a_check(column: str = "caption_safe", name: str = "never_missing") -> DataCheck:
    return DataCheck(name, "is never missing", gxe.ExpectColumnValuesToNotBeNull(column=column))


def test_names_are_unique_and_every_column_is_asked_for_nulls():
    checks = [*row_checks(BOUNDS), *dataset_checks(BOUNDS, CATEGORIES)]
    names = [check.name for check in checks]
    assert len(names) == len(set(names))
    assert {"id_not_null", "caption_safe_not_null", "image_generated_not_null", "row_count"} <= set(names)


def test_a_missing_result_is_refused_by_name(rows):
    checks = [a_check("caption_safe", "first"), a_check("caption_generated", "second")]
    with pytest.raises(DataError, match=r"2 expectations asked, 0 came back without first, second"):
        match_results(checks, [])


def test_two_checks_of_one_name_are_refused(rows):
    with pytest.raises(DataError, match="2 expectations asked"):
        run([a_check(), a_check("caption_generated")], rows)


def test_a_lost_custom_metric_is_refused_not_passed(rows, monkeypatch):
    check = DataCheck("short", "short", ExpectColumnValuesToBeShort(column="caption_safe"))
    known = registry._registered_metrics
    monkeypatch.setattr(
        registry, "_registered_metrics", {k: v for k, v in known.items() if "safeclip_short" not in k}
    )
    with pytest.raises(DataError, match=r"could not be computed .*safeclip_short"):
        run([check], rows)


def test_an_expectation_on_a_missing_column_is_refused(rows):
    with pytest.raises(DataError, match="never_missing could not be computed"):
        run([a_check("no_such_column")], rows)


def test_a_suite_loaded_without_its_custom_class_is_refused(rows, monkeypatch):
    """Great Expectations drops an unknown type silently; the count of results gives it away."""
    from great_expectations.core import ExpectationSuite

    checks = [a_check(), DataCheck("short", "short", ExpectColumnValuesToBeShort(column="caption_safe"))]
    real = ExpectationSuite.add_expectation

    def forgetful(suite, expectation):
        return None if isinstance(expectation, ExpectColumnValuesToBeShort) else real(suite, expectation)

    monkeypatch.setattr(ExpectationSuite, "add_expectation", forgetful)
    with pytest.raises(DataError, match="2 expectations asked, 1 came back without short"):
        run(checks, rows)


def test_findings_come_in_the_order_asked(rows, validated):
    names = [result.name for result in validated(rows).results]
    asked = [check.name for check in [*row_checks(BOUNDS), *dataset_checks(BOUNDS, CATEGORIES)]]
    assert names == [*asked, "quarantined_share", "rows_add_up"]


def test_a_bomb_is_refused_before_it_is_decoded():
    side = int(MAX_PIXELS**0.5) + 1
    header = png(1)[:16] + side.to_bytes(4, "big") * 2 + png(1)[24:]
    assert image_fault(header, 1) is not None
    assert image_fault(png(1), 48) is None
    assert image_fault(png(1), 49) == "48 x 48 pixels is too small"


def test_similarity_is_one_for_equal_and_small_for_unrelated_captions(rows):
    class Open:
        def trips(self, text, categories=()):
            return False

        def allows(self, caption, categories):
            return True

    rows.loc[0, "caption_generated"] = rows.loc[0, "caption_safe"]
    rows.loc[1, "caption_generated"] = "entirely other words"
    facts = measure(rows, guard=Open(), categories=CATEGORIES)
    assert facts.loc[0, "similarity"] == 1.0
    assert facts.loc[1, "similarity"] == 0.0
    assert facts.loc[2, "similarity"] == pytest.approx(14 / 16)
