"""Several rewrites of each of some safe captions, drawn from a tuned rewriter, for a reward to rank."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict
from functools import partial
from pathlib import Path

from tqdm import tqdm

from safeclip.guard import Guard
from safeclip.scratch import Scratch
from safeclip.settings.rewrite_captions import RewriteCaptions
from safeclip.synthesis.answers import AnswerCheck, Outcome, clean
from safeclip.synthesis.captions import SafeCaption
from safeclip.synthesis.engines import RewriteRequest, TransformersRewriter
from safeclip.synthesis.keyed import row_generator
from safeclip.synthesis.microbatches import Batch, micro_batches
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
    scratch: Scratch | None = None,
) -> tuple[list[Outcome], list[str]]:
    """What becomes of each rewrite, and what was said, cleaned, in the order of the requests.

    What the guard destroys is said as nothing. Finished micro-batches are kept in `scratch`, if there is one,
    which must be of these requests and this model; a run that finds some goes on after them.
    """
    drawing = _Drawing(folder, adapter, settings, guard, seed)
    found: dict[str, tuple[Outcome, str]] = {}
    batches = micro_batches(requests, settings.batch_size)
    for number, batch in enumerate(tqdm(batches, desc="candidates", mininterval=10, disable=None)):
        rows = drawing.kept(scratch, number, batch) if scratch else drawing.draw(batch)
        found |= {outcome.id: (outcome, said) for outcome, said in rows}
    return [found[request.id][0] for request in requests], [found[request.id][1] for request in requests]


class _Drawing:
    """Micro-batches one after another; the model is loaded for the first that is not kept."""

    def __init__(
        self, folder: str, adapter: Path, settings: RewriteCaptions, guard: Guard, seed: int
    ) -> None:
        self._make = partial(TransformersRewriter, folder, adapter, settings, seed=seed)
        self._engine: TransformersRewriter | None = None
        self._check = AnswerCheck(guard)

    def draw(self, batch: Batch) -> list[tuple[Outcome, str]]:
        self._engine = self._engine or self._make()
        rows = []
        for request, answer in zip(batch, self._engine.rewrite(batch), strict=True):
            outcome = self._check(request, answer)
            said = "" if outcome.destroyed else clean(answer.text, complete=answer.complete)
            rows.append((outcome, said))
        return rows

    def kept(self, scratch: Scratch, number: int, batch: Batch) -> list[tuple[Outcome, str]]:
        """As `draw`; from the scratch if it is there, else put there."""
        piece = f"candidates-{number:05d}"
        file = scratch.folder / f"{piece}.json"
        if not scratch.has(piece):
            rows = [(asdict(outcome), said) for outcome, said in self.draw(batch)]
            file.write_text(json.dumps(rows), encoding="utf-8")
            scratch.keep(piece, [file])
        kept = json.loads(file.read_text(encoding="utf-8"))
        return [(Outcome(**outcome), said) for outcome, said in kept]
