"""Several rewrites of each of some safe captions, drawn from a tuned rewriter, for a reward to rank."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

from safeclip.guard import Guard
from safeclip.settings.rewrite_captions import RewriteCaptions
from safeclip.synthesis.answers import AnswerCheck, Outcome, clean
from safeclip.synthesis.captions import SafeCaption
from safeclip.synthesis.engines import RewriteRequest, TransformersRewriter
from safeclip.synthesis.keyed import row_generator
from safeclip.synthesis.microbatches import micro_batches
from safeclip.taxonomy import Phrase


def candidate_requests(
    captions: Sequence[SafeCaption], phrases: Sequence[Phrase], guard: Guard, *, candidates: int, seed: int
) -> list[RewriteRequest]:
    """`candidates` requests for each caption, side by side, with one phrase that the guard allows for it.

    A caption that no phrase is allowed for is left out.
    """
    requests = []
    for caption in captions:
        allowed = [
            phrase
            for phrase in phrases
            if not guard.trips(f"{phrase.text}: {caption.caption}", phrase.categories)
        ]
        if allowed:
            drawn = allowed[int(row_generator(seed, caption.id, "preference").integers(len(allowed)))]
            requests += [
                RewriteRequest(f"{caption.id}#{number:02d}", caption.caption, drawn.text, drawn.categories)
                for number in range(candidates)
            ]
    return requests


def draw_candidates(
    folder: str,
    adapter: Path,
    requests: Sequence[RewriteRequest],
    settings: RewriteCaptions,
    guard: Guard,
    *,
    seed: int,
    report: Callable[[int], None] = lambda done: None,
) -> tuple[list[Outcome], list[str]]:
    """What becomes of each rewrite, and what was said, cleaned, in the order of the requests.

    `report` is called with the number of rewrites there are. What the guard destroys is said as nothing.
    """
    engine, judge = TransformersRewriter(folder, adapter, settings, seed=seed), AnswerCheck(guard)
    outcomes: dict[str, Outcome] = {}
    said: dict[str, str] = {}
    for batch in micro_batches(requests, settings.batch_size):
        for request, answer in zip(batch, engine.rewrite(batch), strict=True):
            outcomes[request.id] = outcome = judge(request, answer)
            said[request.id] = "" if outcome.destroyed else clean(answer.text, complete=answer.complete)
        report(len(outcomes))
    return [outcomes[request.id] for request in requests], [said[request.id] for request in requests]
