"""Turn safe captions into requests for the language model, and its outcomes into rows."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

from safeclip.core.errors import DataError
from safeclip.core.guard import Guard
from safeclip.synthesis.answers import RewriteOutcome
from safeclip.synthesis.captions import SafeCaption
from safeclip.synthesis.concepts import ConceptDraw
from safeclip.synthesis.engines import RewriteRequest
from safeclip.synthesis.row_noise import row_key

STAGE = "rewrite_captions"


def make_requests(
    captions: Sequence[SafeCaption], draws: Sequence[ConceptDraw], guard: Guard
) -> tuple[list[RewriteRequest], list[dict[str, str]]]:
    """Return requests for the model, and quarantine rows for captions that must not reach it."""
    requests, refused = [], []
    for caption, draw in zip(captions, draws, strict=True):
        if draw.phrase is None:
            refused.append(_refusal(caption.id, "no concept is allowed for the caption"))
        elif guard.trips(f"{draw.phrase.text}: {caption.caption}", draw.phrase.categories):
            refused.append(_refusal(caption.id, "the request trips the content guard"))
        else:
            phrase = draw.phrase
            requests.append(RewriteRequest(caption.id, caption.caption, phrase.text, phrase.categories))
    return requests, refused


def make_rows(
    captions: Sequence[SafeCaption],
    requests: Sequence[RewriteRequest],
    outcomes: Sequence[RewriteOutcome],
    *,
    rewriter: str,
    seed: int,
) -> tuple[list[dict[str, Any]], list[dict[str, str]]]:
    """Return accepted outcomes as rows of `records.CAPTIONS`, others as rows of `records.QUARANTINE`."""
    by_id = {caption.id: caption for caption in captions}
    request_of = {request.id: request for request in requests}
    rows, rejected = [], []
    for outcome in outcomes:
        if outcome.text is not None:
            caption, request = by_id[outcome.id], request_of[outcome.id]
            rows.append(
                {
                    "id": outcome.id,
                    "split": caption.split,
                    "caption_safe": caption.caption,
                    "caption_generated": outcome.text,
                    "concept": request.concept,
                    "categories": list(request.categories),
                    "rewriter": rewriter,
                    "seed": row_key(seed, outcome.id, STAGE),
                    "source": caption.source,
                }
            )
        elif not outcome.destroyed:
            rejected.append(_refusal(outcome.id, outcome.reason))
    return rows, rejected


def count_rows(
    total: int, rows: int, rejected: int, destroyed: int, max_dropped_share: float
) -> dict[str, int]:
    """Return what counts.json holds.

    Raises:
        DataError: rows went missing, or more than `max_dropped_share` of them were dropped.
    """
    counts = {"in": total, "out": rows, "quarantined": rejected, "destroyed": destroyed}
    if total != rows + rejected + destroyed:
        raise DataError(f"{STAGE}: rows went missing ({counts}); this is a defect, please report it")
    lost = rejected + destroyed
    if lost > max_dropped_share * total:
        raise DataError(
            f"{STAGE}: {lost} of {total} rows lost ({rejected} quarantined, {destroyed} destroyed), more "
            f"than `rewrite_captions.max_dropped_share` = {max_dropped_share}; tune longer or lower the "
            "temperature"
        )
    return counts


def summarise(rejected: Sequence[Mapping[str, str]]) -> str:
    """List reasons with their numbers, most frequent first; "none" if there are none."""
    reasons = Counter(row["reason"] for row in rejected)
    return ", ".join(f"{reason} {n}" for reason, n in reasons.most_common()) or "none"


def _refusal(row_id: str, reason: str) -> dict[str, str]:
    return {"id": row_id, "stage": STAGE, "reason": reason}
