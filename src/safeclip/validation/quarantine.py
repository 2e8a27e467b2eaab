"""Hold a data set to its contract: quarantine bad rows, then check all that is left.

The accounts must balance: in = out + quarantined + destroyed, for each stage and from stage to stage.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Iterable, Sequence
from dataclasses import asdict, dataclass, replace
from itertools import pairwise

import pandas as pd
import pyarrow as pa

from safeclip.core.guard import Guard
from safeclip.core.records import QUARANTINE
from safeclip.settings import ValidateData
from safeclip.validation.contract import CheckResult, dataset_checks, row_checks, run
from safeclip.validation.facts import measure, measure_leaks

STAGE = "validate_data"
_NAMED_IDS, _NAMED_FAILURES = 3, 4  # in the one line of a complaint


@dataclass(frozen=True)
class Account:
    """The rows one stage received and what became of them."""

    stage: str
    rows_in: int
    out: int
    quarantined: int
    destroyed: int = 0

    @property
    def lost(self) -> int:
        """Rows that came in and are neither out, quarantined nor destroyed; negative if rows appeared."""
        return self.rows_in - self.out - self.quarantined - self.destroyed


@dataclass(frozen=True)
class Rejection:
    """A row that a stage put into quarantine, with every reason."""

    id: str
    stage: str
    reasons: tuple[str, ...]


def reject(results: Iterable[CheckResult]) -> list[Rejection]:
    """Reject each row that failed a row check; sorted by id."""
    reasons: dict[str, list[str]] = {}
    for result in results:
        for row_id in result.ids if result.reason else ():
            reasons.setdefault(row_id, []).append(str(result.reason))
    return [Rejection(row_id, STAGE, tuple(listed)) for row_id, listed in sorted(reasons.items())]


def read_rejections(quarantine: pa.Table) -> list[Rejection]:
    """Read the QUARANTINE table of an earlier stage, which gives one reason for each row."""
    return [Rejection(row["id"], row["stage"], (row["reason"],)) for row in quarantine.to_pylist()]


def quarantine_table(rejections: Iterable[Rejection]) -> pa.Table:
    """Make QUARANTINE rows, sorted by id, then stage; the reasons of a row are joined by a semicolon."""
    rows = [
        {"id": rejection.id, "stage": rejection.stage, "reason": "; ".join(rejection.reasons)}
        for rejection in sorted(rejections, key=lambda rejection: (rejection.id, rejection.stage))
    ]
    return pa.Table.from_pylist(rows, schema=QUARANTINE)


def imbalances(accounts: Sequence[Account], rejections: Sequence[Rejection]) -> list[str]:
    """Say in words where the accounts of consecutive stages do not balance; empty if they do."""
    faults = []
    listed = Counter(rejection.stage for rejection in rejections)
    for account in accounts:
        if account.lost:
            faults.append(f"{account.stage} lost {account.lost} of {account.rows_in} rows")
        if listed[account.stage] != account.quarantined:
            counted = f"counts {account.quarantined} quarantined rows"
            faults.append(f"{account.stage} {counted} and lists {listed[account.stage]}")
    for before, after in pairwise(accounts):
        if before.out != after.rows_in:
            faults.append(f"{before.stage} sent {before.out} rows and {after.stage} received {after.rows_in}")
    times = Counter(rejection.id for rejection in rejections)
    repeated = [row_id for row_id, count in times.items() if count > 1]
    if repeated:
        faults.append(f"{len(repeated)} rows are quarantined twice (first: {min(repeated)})")
    return faults


def totals(accounts: Sequence[Account]) -> dict[str, int]:
    """Add up the chain: what the first stage received, what the last let out, all losses between."""
    return {
        "in": accounts[0].rows_in,
        "out": accounts[-1].out,
        "quarantined": sum(account.quarantined for account in accounts),
        "destroyed": sum(account.destroyed for account in accounts),
    }


def by_reason(rejections: Iterable[Rejection]) -> dict[str, dict[str, int]]:
    """Count rows by stage and reason. A row with several reasons counts under each."""
    counts: dict[str, Counter[str]] = {}
    for rejection in rejections:
        counts.setdefault(rejection.stage, Counter()).update(rejection.reasons)
    return {stage: dict(sorted(reasons.items())) for stage, reasons in sorted(counts.items())}


def as_rows(accounts: Sequence[Account]) -> list[dict]:
    """Return accounts as plain dictionaries for summary.json."""
    return [{"in" if key == "rows_in" else key: value for key, value in asdict(a).items()} for a in accounts]


@dataclass(frozen=True)
class ValidationResult:
    """The rows that stay (a digest in place of each image), the results of all checks, and the accounts."""

    rows: pd.DataFrame
    results: tuple[CheckResult, ...]
    rejections: tuple[Rejection, ...]
    accounts: tuple[Account, ...]

    @property
    def failures(self) -> tuple[CheckResult, ...]:
        return tuple(r for r in self.results if not r.passed and r.on_fail == "stop")

    @property
    def warnings(self) -> tuple[CheckResult, ...]:
        return tuple(r for r in self.results if not r.passed and r.on_fail == "warn")

    def with_results(self, more: Sequence[CheckResult]) -> ValidationResult:
        """Add the results of further checks."""
        return replace(self, results=(*self.results, *more))

    def complaint(self) -> str:
        """One line that names what failed, with what was seen; row ids, never their text."""
        failures = [_describe(result) for result in self.failures[:_NAMED_FAILURES]]
        more = [result.name for result in self.failures[_NAMED_FAILURES:]]
        return "; ".join(failures + ([f"and {', '.join(more)}"] if more else []))


def validate(
    rows: pd.DataFrame,
    *,
    bounds: ValidateData,
    guard: Guard,
    categories: Collection[str],
    earlier: Sequence[Account] = (),
    earlier_rejections: Sequence[Rejection] = (),
) -> ValidationResult:
    """Hold `rows` (of `join_rows`, nulls where a part is missing) to the contract.

    `earlier` are the accounts of the stages before, in order, and `earlier_rejections` their quarantines.
    Raises `DataError` only if the expectations could not be computed; a failed data set has `.failures`.
    """
    facts = measure(rows, guard=guard, categories=categories)
    per_row = row_checks(bounds)
    first = run(per_row, facts)
    rejected = reject(first)
    rejected_ids = {rejection.id for rejection in rejected}
    kept = facts[~facts["id"].astype("string").isin(rejected_ids)].reset_index(drop=True)
    kept = measure_leaks(kept, near_levels=bounds.near_duplicate_levels)
    second = run([*per_row, *dataset_checks(bounds, categories)], kept)
    # row results keep the rows of the first pass, and pass if the second found none
    after = {result.name: result.passed for result in second}
    results = [replace(result, passed=after[result.name]) for result in first] + second[len(per_row) :]
    account = Account(STAGE, len(rows), len(kept), len(rejected))
    accounts = (*earlier, account)
    rejections = (*earlier_rejections, *rejected)
    books = (_quarantined_share(account, bounds), _balance(accounts, rejections))
    return ValidationResult(kept, (*results, *books), rejections, accounts)


def _quarantined_share(account: Account, bounds: ValidateData) -> CheckResult:
    share = account.quarantined / account.rows_in if account.rows_in else 1.0
    promise = f"at most {bounds.max_quarantined:.0%} of the rows are quarantined here"
    passed = share <= bounds.max_quarantined
    return CheckResult("quarantined_share", "data set", promise, passed, round(share, 6))


def _balance(accounts: Sequence[Account], rejections: Sequence[Rejection]) -> CheckResult:
    faults = imbalances(accounts, rejections)
    promise = "in = out + quarantined + destroyed, in every stage and from stage to stage"
    return CheckResult("rows_add_up", "data set", promise, not faults, len(faults), detail="; ".join(faults))


def _describe(result: CheckResult) -> str:
    seen = "nothing to measure" if result.observed is None else f"{result.observed:g}"
    named = ", ".join(result.ids[:_NAMED_IDS]) + (" …" if len(result.ids) > _NAMED_IDS else "")
    detail = result.detail or named
    return f"{result.name} (promised {result.promise}; found {seen}{f': {detail}' if detail else ''})"
