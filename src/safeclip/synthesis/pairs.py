"""The curated caption pairs that teach the rewriter: JSON Lines, checked before any model runs."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Annotated

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from safeclip.core.errors import DataError
from safeclip.core.guard import Guard
from safeclip.core.taxonomy import Taxonomy

Words = Annotated[str, Field(min_length=1, pattern=r"^\S(.*\S)?$")]


class CuratedPair(BaseModel):
    """A safe caption and its unsafe rewrite; `concept` is the taxonomy phrase that was asked for."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    id: Words
    caption_safe: Words
    caption_unsafe: Words
    concept: Words
    categories: tuple[Words, ...] = Field(min_length=1)


def load_pairs(path: Path | str, guard: Guard, taxonomy: Taxonomy) -> list[CuratedPair]:
    """Read and check the pairs, in the file's order.

    `DataError` names the file, the line and the fault, never the text: broken JSON, unknown keys, repeated
    ids or safe captions, a concept or categories that are not the taxonomy's, a refusal of the guard.
    """
    path = Path(path)
    try:
        lines = path.read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeDecodeError):
        raise DataError(f"{path}: cannot be read; pull the data folder") from None
    pairs: list[CuratedPair] = []
    for number, line in enumerate(lines, start=1):
        try:
            pair = _parse(line)
            if fault := next(_faults(pair, pairs, guard, taxonomy), None):
                raise ValueError(fault)
        except ValueError as error:
            raise DataError(f"{path}, line {number}: {error}; correct or remove the line") from None
        pairs.append(pair)
    if not pairs:
        raise DataError(f"{path}: holds no pairs; pull the data folder")
    return pairs


def _parse(line: str) -> CuratedPair:
    try:
        return CuratedPair.model_validate(json.loads(line))
    except json.JSONDecodeError as error:
        raise ValueError(f"not JSON ({error.msg})") from None
    except ValidationError as error:
        fault = error.errors()[0]
        key = ".".join(str(part) for part in fault["loc"]) or "the line"
        raise ValueError(f"`{key}`: {fault['msg']}") from None


def _faults(pair: CuratedPair, before: list[CuratedPair], guard: Guard, taxonomy: Taxonomy) -> Iterator[str]:
    if any(pair.id == other.id for other in before):
        yield "its id is used by an earlier line"
    if any(pair.caption_safe == other.caption_safe for other in before):
        yield "its safe caption is that of an earlier line"
    phrase = next((phrase for phrase in taxonomy.phrases if phrase.text == pair.concept), None)
    if phrase is None:
        yield "its concept is no phrase of the taxonomy"
    elif set(phrase.categories) != set(pair.categories):
        yield "its categories are not those of its concept in the taxonomy"
    if pair.caption_safe == pair.caption_unsafe:
        yield "both captions are the same"
    if any(guard.trips(caption, pair.categories) for caption in (pair.caption_safe, pair.caption_unsafe)):
        yield "refused by the content guard"
