"""Rejected rows and the books: in = out + quarantined + destroyed, per stage and in all."""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Iterable, Sequence
from dataclasses import asdict, dataclass, replace
from itertools import pairwise

import pandas as pd
import pyarrow as pa

from safeclip.core.records import QUARANTINE
from safeclip.settings import ValidateData
from safeclip.validation.contract import Check, Finding, dataset_checks, row_checks, run
from safeclip.validation.facts import TermGuard, measure, measure_leaks

STAGE = "validate_data"


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


def reject(findings: Iterable[Finding]) -> pa.Table:
    """One QUARANTINE row for each row that failed a row check, its reasons joined; sorted by id."""
    reasons: dict[str, list[str]] = {}
    for finding in findings:
        for row_id in finding.ids if finding.reason else ():
            reasons.setdefault(row_id, []).append(str(finding.reason))
    rows = [{"id": key, "stage": STAGE, "reason": "; ".join(why)} for key, why in sorted(reasons.items())]
    return pa.Table.from_pylist(rows, schema=QUARANTINE)


def gather(tables: Sequence[pa.Table]) -> pa.Table:
    """All quarantines in one, sorted by id, then stage."""
    return pa.concat_tables(tables).sort_by([("id", "ascending"), ("stage", "ascending")])


def imbalances(accounts: Sequence[Account], quarantine: pa.Table) -> list[str]:
    """Every way in which the books of consecutive stages do not close, in words; empty if they do."""
    faults = []
    listed = Counter(quarantine["stage"].to_pylist())
    for account in accounts:
        if account.lost:
            faults.append(f"{account.stage} lost {account.lost} of {account.rows_in} rows")
        if listed[account.stage] != account.quarantined:
            told = f"counts {account.quarantined} quarantined rows and lists {listed[account.stage]}"
            faults.append(f"{account.stage} {told}")
    for before, after in pairwise(accounts):
        if before.out != after.rows_in:
            faults.append(f"{before.stage} sent {before.out} rows and {after.stage} received {after.rows_in}")
    repeated = [row_id for row_id, times in Counter(quarantine["id"].to_pylist()).items() if times > 1]
    if repeated:
        faults.append(f"{len(repeated)} rows are quarantined twice (first: {min(repeated)})")
    return faults


def totals(accounts: Sequence[Account]) -> dict[str, int]:
    """The chain as one account: what the first stage received, what the last let out, all losses between."""
    return {
        "in": accounts[0].rows_in,
        "out": accounts[-1].out,
        "quarantined": sum(account.quarantined for account in accounts),
        "destroyed": sum(account.destroyed for account in accounts),
    }


def by_reason(quarantine: pa.Table) -> dict[str, dict[str, int]]:
    """stage -> reason -> rows. A row with several reasons counts under each."""
    counts: dict[str, Counter[str]] = {}
    for row in quarantine.to_pylist():
        for reason in row["reason"].split("; "):
            counts.setdefault(row["stage"], Counter())[reason] += 1
    return {stage: dict(sorted(reasons.items())) for stage, reasons in sorted(counts.items())}


def as_rows(accounts: Sequence[Account]) -> list[dict]:
    """Accounts as plain dictionaries for summary.json."""
    return [{"in" if key == "rows_in" else key: value for key, value in asdict(a).items()} for a in accounts]


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
