"""Judge a data set: rows that break the contract are set aside, then what is left is held to all of it."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass, replace

import pandas as pd
import pyarrow as pa

from safeclip.settings.validate_data import ValidateData
from safeclip.validation.expectations import dataset_checks, row_checks
from safeclip.validation.facts import TermGuard, measure, measure_leaks
from safeclip.validation.quarantine import STAGE, Account, gather, imbalances, reject
from safeclip.validation.suite import Check, Finding, run

_NAMED_IDS = 3
_NAMED_FAILURES = 4


@dataclass(frozen=True)
class Judgement:
    """The rows that stay (a digest in place of each picture), what was found, and the books."""

    rows: pd.DataFrame
    findings: tuple[Finding, ...]
    quarantine: pa.Table
    accounts: tuple[Account, ...]

    @property
    def failures(self) -> tuple[Finding, ...]:
        return tuple(f for f in self.findings if not f.passed and f.on_fail == "stop")

    @property
    def warnings(self) -> tuple[Finding, ...]:
        return tuple(f for f in self.findings if not f.passed and f.on_fail == "warn")

    def with_findings(self, more: Sequence[Finding]) -> Judgement:
        """The same judgement with further findings."""
        return replace(self, findings=(*self.findings, *more))

    def complaint(self) -> str:
        """One line that names what failed, with what was seen; row ids, never their text."""
        told = [_describe(finding) for finding in self.failures[:_NAMED_FAILURES]]
        more = [finding.name for finding in self.failures[_NAMED_FAILURES:]]
        return "; ".join(told + ([f"and {', '.join(more)}"] if more else []))


def judge(
    rows: pd.DataFrame,
    *,
    bounds: ValidateData,
    guard: TermGuard,
    categories: Collection[str],
    earlier: Sequence[Account] = (),
    earlier_quarantine: pa.Table | None = None,
) -> Judgement:
    """Hold `rows` (of `join_rows`, nulls where a part is missing) to the contract.

    `earlier` are the accounts of the stages before, in order, and `earlier_quarantine` what they rejected.
    Raises `DataError` only if the expectations could not be computed; a failed data set has `.failures`.
    """
    facts = measure(rows, guard=guard, categories=categories)
    per_row = row_checks(bounds)
    first = run(per_row, facts)
    rejected = reject(first)
    gone = set(rejected["id"].to_pylist())
    kept = facts[~facts["id"].astype("string").isin(gone)].reset_index(drop=True)
    kept = measure_leaks(kept, near_levels=bounds.near_duplicate_levels)
    second = run([*per_row, *dataset_checks(bounds, categories)], kept)
    findings = _merge(per_row, first, second)
    account = Account(STAGE, len(rows), len(kept), rejected.num_rows)
    accounts = (*earlier, account)
    quarantine = gather([rejected] if earlier_quarantine is None else [earlier_quarantine, rejected])
    books = (_quarantined_share(account, bounds), _books(accounts, quarantine))
    return Judgement(kept, (*findings, *books), quarantine, accounts)


def _merge(per_row: Sequence[Check], first: list[Finding], second: list[Finding]) -> list[Finding]:
    """Row findings keep the rows of the first pass, and pass if the second found none."""
    after = {finding.name: finding.passed for finding in second}
    rows = [replace(finding, passed=after[finding.name]) for finding in first]
    return rows + second[len(per_row) :]


def _quarantined_share(account: Account, bounds: ValidateData) -> Finding:
    share = account.quarantined / account.rows_in if account.rows_in else 1.0
    promise = f"at most {bounds.max_quarantined:.0%} of the rows are quarantined here"
    passed = share <= bounds.max_quarantined
    return Finding("quarantined_share", "data set", promise, passed, round(share, 6))


def _books(accounts: Sequence[Account], quarantine: pa.Table) -> Finding:
    faults = imbalances(accounts, quarantine)
    promise = "in = out + quarantined + destroyed, in every stage and from stage to stage"
    return Finding("rows_add_up", "data set", promise, not faults, len(faults), detail="; ".join(faults))


def _describe(finding: Finding) -> str:
    seen = "nothing to measure" if finding.observed is None else f"{finding.observed:g}"
    named = ", ".join(finding.ids[:_NAMED_IDS]) + (" …" if len(finding.ids) > _NAMED_IDS else "")
    detail = finding.detail or named
    return f"{finding.name} (promised {finding.promise}; found {seen}{f': {detail}' if detail else ''})"
