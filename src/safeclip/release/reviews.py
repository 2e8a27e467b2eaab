"""What was asked of reviewers and what they answered: one JSON file a candidate, in the store.

A file here is a record, not a power: approving without a signature changes nothing but this file, and what is
in production is read from signed tags alone.
"""

from __future__ import annotations

import os
from datetime import UTC, datetime, timedelta
from typing import Literal

from pydantic import AwareDatetime, BaseModel, ConfigDict, ValidationError

from safeclip.core.errors import RegistryError
from safeclip.release.candidate import Candidate
from safeclip.release.store import Store

State = Literal["waiting", "approved", "rejected", "expired", "promoted"]


class Review(BaseModel):
    """A request and its answer. `approved` awaits the signature that promotes."""

    model_config = ConfigDict(extra="forbid")

    candidate: Candidate
    asked: AwareDatetime
    expires: AwareDatetime
    started_by: str
    flow_run: str | None = None  # a suspended Prefect run that waits for the answer
    state: State = "waiting"
    reviewer: str | None = None
    reason: str | None = None
    version: str | None = None

    def now(self, clock: datetime) -> State:
        """The state at a time: what nobody answered in time has expired."""
        return "expired" if self.state == "waiting" and clock > self.expires else self.state


def ask(
    store: Store, candidate: Candidate, started_by: str, hours: int, flow_run: str | None = None
) -> Review:
    """File a request; one that is open or answered is returned as it is, an expired one is asked anew."""
    known = find(store, candidate.id)
    if known and known.now(_clock()) != "expired":
        return known
    asked = _clock()
    review = Review(
        candidate=candidate,
        asked=asked,
        expires=asked + timedelta(hours=hours),
        started_by=started_by,
        flow_run=flow_run,
    )
    save(store, review)
    return review


def answer(store: Store, review: Review, approve: bool, reviewer: str, reason: str) -> Review:
    """Record an answer to a waiting request; a `RegistryError` if it no longer waits or gives no reason."""
    check_open(review)
    if not reason.strip():
        raise RegistryError("say why: --reason is kept with the release")
    state: State = "approved" if approve else "rejected"
    answered = review.model_copy(update={"state": state, "reviewer": reviewer, "reason": reason.strip()})
    save(store, answered)
    return answered


def check_open(review: Review) -> None:
    """Refuse a request that was rejected, has expired or is promoted already."""
    state = review.now(_clock())
    if state == "expired":
        raise RegistryError(
            f"candidate {review.candidate.id}: nobody answered until {review.expires:%Y-%m-%d %H:%M} UTC; "
            "`safeclip review ask` asks again"
        )
    if state in ("rejected", "promoted"):
        raise RegistryError(
            f"candidate {review.candidate.id} was {state} by {review.reviewer}: {review.reason}"
        )


def find(store: Store, name: str) -> Review | None:
    """The request for a candidate, by the first digits of its id; None if there is none."""
    matches = [file for file in store.names("reviews") if name and file.startswith(name)]
    if len(matches) > 1:
        raise RegistryError(f"{name}: {len(matches)} candidates begin so; give more digits")
    if not matches:
        return None
    raw = store.read_json(f"reviews/{matches[0]}")
    try:
        review = Review.model_validate(raw)
    except ValidationError as error:
        fault = error.errors()[0]
        raise RegistryError(
            f"reviews/{matches[0]}: {'.'.join(map(str, fault['loc']))}: {fault['msg']}"
        ) from None
    if f"{review.candidate.id}.json" != matches[0]:
        raise RegistryError(
            f"reviews/{matches[0]}: was edited, its digests are those of {review.candidate.id}"
        )
    return review


def all_reviews(store: Store) -> list[Review]:
    """Every request, the oldest first."""
    found = [find(store, name) for name in store.names("reviews") if name.endswith(".json")]
    return sorted((review for review in found if review), key=lambda review: review.asked)


def save(store: Store, review: Review) -> None:
    store.write_json(f"reviews/{review.candidate.id}.json", review.model_dump(mode="json"))


def starter() -> str:
    """Who starts runs here: SAFECLIP_STARTED_BY, else the user's name."""
    return os.environ.get("SAFECLIP_STARTED_BY") or os.environ.get("USER") or "unknown"


def _clock() -> datetime:
    return datetime.now(UTC).replace(microsecond=0)
