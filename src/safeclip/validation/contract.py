"""The data contract as expectations, in code, and a run of them that fails closed.

Expectations about rows pass on an empty column, so not-null and row counts are always checked as well.

Great Expectations drops an expectation whose class was not imported, and reports one that crashed among the
others. So a run is trusted only if each expectation came back by name and was computed.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

import great_expectations as gx
import great_expectations.expectations as gxe
import pandas as pd
from great_expectations.core import ExpectationSuite
from great_expectations.data_context.types.base import ProgressBarsConfig
from great_expectations.exceptions import GreatExpectationsError
from great_expectations.expectations.expectation import Expectation

from safeclip.core.errors import DataError
from safeclip.core.records import LABELS, QUADRUPLETS, SPLITS
from safeclip.settings import ValidateData
from safeclip.validation.facts import STATES


@dataclass(frozen=True)
class DataCheck:
    """One promise. With a `reason` it is about rows, which go to quarantine; without, about all data."""

    name: str
    promise: str
    expectation: Expectation
    reason: str | None = None

    @property
    def level(self) -> Literal["row", "data set"]:
        return "row" if self.reason else "data set"


@dataclass(frozen=True)
class CheckResult:
    """The result of a check. `ids` are the rows at fault; what they hold is left out.

    `on_fail`: a failed check stops the chain or only warns.
    """

    name: str
    level: str
    promise: str
    passed: bool
    observed: float | int | None = None
    ids: tuple[str, ...] = field(default=(), repr=False)
    reason: str | None = None
    detail: str = ""
    on_fail: Literal["warn", "stop"] = "stop"


def row_checks(bounds: ValidateData) -> list[DataCheck]:
    """Return the checks whose failing rows are quarantined with a reason."""
    words = bounds.max_caption_words
    checks = [
        DataCheck(
            f"{column}_not_null",
            f"{column} is never missing",
            gxe.ExpectColumnValuesToNotBeNull(column=column),
            f"{column} is missing",
        )
        for column in QUADRUPLETS.names
        if column != "id"
    ]
    for side in ("safe", "generated"):
        checks += [
            DataCheck(
                f"{side}_caption_length",
                f"every {side} caption has 1 to {words} words",
                gxe.ExpectColumnValuesToBeBetween(column=f"{side}_words", min_value=1, max_value=words),
                f"{side} caption is empty or longer than {words} words",
            ),
            DataCheck(
                f"{side}_image_usable",
                f"every {side} image decodes, has sides of at least {bounds.min_image_side} pixels and "
                "more than one colour",
                gxe.ExpectColumnValuesToBeNull(column=f"image_{side}_fault"),
                f"{side} image does not decode, is of one colour or smaller than {bounds.min_image_side} "
                "pixels",
            ),
        ]
    for side in ("text", "image"):
        values = gxe.ExpectColumnValuesToBeInSet(column=f"{side}_label", value_set=list(LABELS))
        score = gxe.ExpectColumnValuesToBeBetween(column=f"{side}_score", min_value=0.0, max_value=1.0)
        promise = f"every {side} label is {' or '.join(LABELS)}"
        checks += [
            DataCheck(f"{side}_label_values", promise, values, f"{side} label is unknown"),
            DataCheck(
                f"{side}_score_range",
                f"every {side} score is a probability",
                score,
                f"{side} score is outside 0 to 1",
            ),
        ]
    lowest = bounds.min_similarity
    checks += [
        DataCheck(
            "captions_similar",
            f"safe and generated caption share words in order (ratio at least {lowest:g})",
            gxe.ExpectColumnValuesToBeBetween(column="similarity", min_value=lowest, max_value=1.0),
            f"generated caption has too little of the safe one (ratio below {lowest:g})",
        ),
        DataCheck(
            "safe_captions_unique",
            "no safe caption repeats within a split",
            gxe.ExpectColumnValuesToBeBetween(column="earlier_same_caption", max_value=0),
            "safe caption repeats an earlier row's",
        ),
        DataCheck(
            "categories_known",
            "every row has a category, and the taxonomy knows it",
            gxe.ExpectColumnValuesToBeInSet(column="categories_known", value_set=[True]),
            "a category is missing or not in the taxonomy",
        ),
    ]
    return checks


def dataset_checks(bounds: ValidateData, categories: Collection[str]) -> list[DataCheck]:
    """Return the checks that stop the chain when they fail on the rows that are left."""
    shape = [
        DataCheck(
            "columns",
            "every column of the contract is there",
            gxe.ExpectTableColumnsToMatchSet(column_set=QUADRUPLETS.names, exact_match=False),
        ),
        DataCheck(
            "row_count",
            f"at least {bounds.min_rows:,} rows",
            gxe.ExpectTableRowCountToBeBetween(min_value=bounds.min_rows),
        ),
        DataCheck("id_not_null", "every row has an id", gxe.ExpectColumnValuesToNotBeNull(column="id")),
        DataCheck("ids_unique", "no id repeats", gxe.ExpectColumnValuesToBeUnique(column="id")),
        DataCheck(
            "splits",
            f"the splits are {', '.join(SPLITS)}, none empty",
            gxe.ExpectColumnDistinctValuesToEqualSet(column="split", value_set=list(SPLITS)),
        ),
    ]
    return [*shape, *_leak_checks(bounds), *_balance_checks(bounds, categories)]


def _leak_checks(bounds: ValidateData) -> list[DataCheck]:
    near = f"no safe image within {bounds.near_duplicate_levels:g} levels of one in another split"
    promises = {
        "caption_in_other_split": "no safe caption stands in two splits",
        "words_in_other_split": "no two splits share a safe caption's words in another order",
        "image_in_other_split": "no safe image stands in two splits",
        "near_image_in_other_split": near,
    }
    checks = [
        DataCheck(f"no_{column}", promise, gxe.ExpectColumnValuesToBeInSet(column=column, value_set=[False]))
        for column, promise in promises.items()
    ]
    clear = gxe.ExpectColumnValuesToBeInSet(column="guard_clear", value_set=[True])
    return [*checks, DataCheck("no_forbidden_term", "no caption trips the content guard", clear)]


def _balance_checks(bounds: ValidateData, categories: Collection[str]) -> list[DataCheck]:
    checks = [
        DataCheck(
            f"{split}_unsafe_{side}",
            f"at least {lowest:.0%} of the {split} split has an unsafe {side}",
            gxe.ExpectColumnMeanToBeBetween(
                column=f"{side}_unsafe",
                min_value=lowest,
                row_condition=f'split=="{split}"',
                condition_parser="pandas",
            ),
        )
        for split in SPLITS
        for side, lowest in (("text", bounds.min_unsafe_text), ("image", bounds.min_unsafe_image))
    ]
    highest = bounds.max_state_share
    for state in STATES:
        share = gxe.ExpectColumnMeanToBeBetween(column=state, min_value=0.0, max_value=highest)
        promise = f"at most {highest:.0%} of all rows are in the state: {state}"
        checks.append(DataCheck(f"share_of_{state.replace(' ', '_')}", promise, share))
    least = bounds.min_category_share
    for category in categories:
        share = gxe.ExpectColumnMeanToBeBetween(column=f"category {category}", min_value=least)
        promise = f"at least {least:.1%} of all rows are in the category: {category}"
        checks.append(DataCheck(f"share_of_{category}", promise, share))
    return checks


def run(checks: Sequence[DataCheck], frame: pd.DataFrame) -> list[CheckResult]:
    """Run all `checks` on `frame` in one suite; `DataError` unless exactly one result comes back for each."""
    context = gx.get_context(mode="ephemeral")
    context.variables.progress_bars = ProgressBarsConfig(globally=False)
    suite = ExpectationSuite(name="data_contract")
    for check in checks:
        check.expectation.meta = {"name": check.name}
        suite.add_expectation(check.expectation)
    source = context.data_sources.add_pandas("rows").add_dataframe_asset("quadruplets")
    batch = source.add_batch_definition_whole_dataframe("all").get_batch({"dataframe": frame})
    wanted = {
        "result_format": "COMPLETE",
        "unexpected_index_column_names": ["id"],
        "return_unexpected_index_query": False,
    }
    try:
        results = batch.validate(suite, result_format=wanted).results
    except GreatExpectationsError as error:
        why = str(error).splitlines()[0][:120]
        raise DataError(f"the expectations could not be computed ({why}); nothing was validated") from None
    return match_results(checks, results)


def match_results(checks: Sequence[DataCheck], results: Sequence[Any]) -> list[CheckResult]:
    """Pair results with checks by name; a missing, doubled or crashed one is a `DataError`, never a pass."""
    by_name = {(result.expectation_config.meta or {}).get("name"): result for result in results}
    names = [check.name for check in checks]
    lost = sorted(set(names) - set(by_name))
    if lost or len(results) != len(names) or len(set(names)) != len(names):
        raise DataError(
            f"{len(names)} expectations asked, {len(results)} came back"
            f"{' without ' + ', '.join(lost) if lost else ''}; nothing was validated: "
            "import every custom expectation before the suite is built"
        )
    return [_result(check, by_name[check.name]) for check in checks]


def _result(check: DataCheck, result: Any) -> CheckResult:
    info = result.exception_info or {}
    entries = [info] if "raised_exception" in info else [e for e in info.values() if isinstance(e, dict)]
    for entry in entries:
        if entry.get("raised_exception"):  # its first line alone: the others may hold rows
            crash = str(entry.get("exception_message")).splitlines()[0][:120]
            raise DataError(
                f"expectation {check.name} could not be computed ({crash}); nothing was validated"
            )
    faults = result.result.get("unexpected_index_list") or []
    observed = result.result.get("observed_value")
    return CheckResult(
        name=check.name,
        level=check.level,
        promise=check.promise,
        passed=bool(result.success),
        observed=_plain(observed, result.result),
        ids=tuple(sorted(str(fault["id"]) for fault in faults)),
        reason=check.reason,
    )


def _plain(observed: Any, result: dict) -> float | int | None:
    """Return a share or count as a plain number; for checks of rows, how many failed."""
    if isinstance(observed, (int, float)) and not isinstance(observed, bool):
        return int(observed) if isinstance(observed, int) else round(float(observed), 6)
    return int(result["unexpected_count"]) if "unexpected_count" in result else None
