"""Record what reviewers were asked and what they answered: one JSON file per candidate, in the store.

Such a file is a record and grants nothing: approving without a signature changes this file alone, and what is
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
    """A request and its answer; one that is `approved` still needs the signature that promotes it."""

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

    def state_at(self, when: datetime) -> State:
        """Return the state at a time: what nobody answered in time has expired."""
        return "expired" if self.state == "waiting" and when > self.expires else self.state


def ask(
    store: Store, candidate: Candidate, started_by: str, hours: int, flow_run: str | None = None
) -> Review:
    """File a request; return one that is open or answered as it is, ask an expired one anew."""
    known = find(store, candidate.id)
    if known and known.state_at(_now()) != "expired":
        return known
    now = _now()
    review = Review(
        candidate=candidate,
        asked=now,
        expires=now + timedelta(hours=hours),
        started_by=started_by,
        flow_run=flow_run,
    )
    save(store, review)
    return review


def answer(store: Store, review: Review, approve: bool, reviewer: str, reason: str) -> Review:
    """Record an answer to a waiting request; `RegistryError` if it no longer waits or gives no reason."""
    check_open(review)
    check_reason(reason)
    state: State = "approved" if approve else "rejected"
    answered = review.model_copy(update={"state": state, "reviewer": reviewer, "reason": reason.strip()})
    save(store, answered)
    return answered


def check_reason(reason: str) -> None:
    """Refuse a decision without a reason: it is kept with the release."""
    if not reason.strip():
        raise RegistryError("say why: --reason is kept with the release")


def check_open(review: Review) -> None:
    """Refuse a request that was rejected, has expired or is promoted already."""
    state = review.state_at(_now())
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
    """Find the request for a candidate by the first digits of its id; None if there is none.

    Raises:
        RegistryError: more than one begins so, or the file is no request or was edited.
    """
    matches = [file for file in store.names("reviews") if name and file.startswith(name)]
    if len(matches) > 1:
        raise RegistryError(f"{name}: {len(matches)} candidates begin so; give more digits")
    if not matches:
        return None
    try:
        review = Review.model_validate(store.read_json(f"reviews/{matches[0]}"))
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
    """Read every request, the oldest first."""
    requests = [find(store, name) for name in store.names("reviews") if name.endswith(".json")]
    return sorted((review for review in requests if review), key=lambda review: review.asked)


def save(store: Store, review: Review) -> None:
    """Write a request, over what is there."""
    store.write_json(f"reviews/{review.candidate.id}.json", review.model_dump(mode="json"))


def starter() -> str:
    """Name who starts runs here: SAFECLIP_STARTED_BY, else the user."""
    return os.environ.get("SAFECLIP_STARTED_BY") or os.environ.get("USER") or "unknown"


def _now() -> datetime:
    return datetime.now(UTC).replace(microsecond=0)
