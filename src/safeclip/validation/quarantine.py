"""Rejected rows and the books: in = out + quarantined + destroyed, per stage and in all."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass
from itertools import pairwise

import pyarrow as pa

from safeclip.records import QUARANTINE
from safeclip.validation.suite import Finding

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
