"""A suite that is asked of a frame, and the run that cannot fail open.

Great Expectations drops an expectation whose class was not imported, and reports one that crashed among the
others. So a run is trusted only if each expectation asked came back by name and was computed.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

import great_expectations as gx
import pandas as pd
from great_expectations.core import ExpectationSuite
from great_expectations.data_context.types.base import ProgressBarsConfig
from great_expectations.exceptions import GreatExpectationsError
from great_expectations.expectations.expectation import Expectation

from safeclip.errors import DataError


@dataclass(frozen=True)
class Check:
    """One promise. With a `reason` it is about rows, which go to quarantine; without, about all data."""

    name: str
    promise: str
    expectation: Expectation
    reason: str | None = None

    @property
    def level(self) -> Literal["row", "data set"]:
        return "row" if self.reason else "data set"


@dataclass(frozen=True)
class Finding:
    """What came of a check. `ids` are the rows at fault; never what they hold.

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


def run(checks: Sequence[Check], frame: pd.DataFrame) -> list[Finding]:
    """Ask all `checks` of `frame` in one suite; `DataError` unless exactly one result comes back for each."""
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
        raise DataError(f"the expectations could not be computed ({why}); the data was not judged") from None
    return match_results(checks, results)


def match_results(checks: Sequence[Check], results: Sequence[Any]) -> list[Finding]:
    """Pair results with checks by name; a missing, doubled or crashed one is a `DataError`, never a pass."""
    by_name = {(result.expectation_config.meta or {}).get("name"): result for result in results}
    names = [check.name for check in checks]
    lost = sorted(set(names) - set(by_name))
    if lost or len(results) != len(names) or len(set(names)) != len(names):
        raise DataError(
            f"{len(names)} expectations asked, {len(results)} came back"
            f"{' without ' + ', '.join(lost) if lost else ''}; the data was not judged: "
            "import every custom expectation before the suite is built"
        )
    return [_finding(check, by_name[check.name]) for check in checks]


def _finding(check: Check, result: Any) -> Finding:
    crash = _crash(result.exception_info or {})
    if crash:
        raise DataError(f"expectation {check.name} could not be computed ({crash}); the data was not judged")
    faults = result.result.get("unexpected_index_list") or []
    observed = result.result.get("observed_value")
    return Finding(
        name=check.name,
        level=check.level,
        promise=check.promise,
        passed=bool(result.success),
        observed=_plain(observed, result.result),
        ids=tuple(sorted(str(fault["id"]) for fault in faults)),
        reason=check.reason,
    )


def _crash(info: dict) -> str | None:
    """The first line of the exception behind a result, if there was one; row contents are left out."""
    entries = [info] if "raised_exception" in info else [e for e in info.values() if isinstance(e, dict)]
    raised = [entry for entry in entries if entry.get("raised_exception")]
    return str(raised[0].get("exception_message")).splitlines()[0][:120] if raised else None


def _plain(observed: Any, result: dict) -> float | int | None:
    """A share or count as a plain number; for checks of rows, how many failed."""
    if isinstance(observed, (int, float)) and not isinstance(observed, bool):
        return int(observed) if isinstance(observed, int) else round(float(observed), 6)
    return int(result["unexpected_count"]) if "unexpected_count" in result else None
