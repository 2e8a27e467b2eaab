"""Categories, concepts and phrases: what counts as unsafe here, and what is excluded by policy.

The concepts are those of the inappropriate-image-prompts and Safe-CLIP lists (arXiv 2211.05105, 2311.16254).
A concept of policy `exclude` is known by its number in the published list alone: it has no name, no phrases.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator
from ruamel.yaml import YAML
from ruamel.yaml.error import YAMLError

from safeclip.core.errors import DataError

Words = Annotated[str, Field(min_length=1, pattern=r"^\S(.*\S)?$")]


class _Strict(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid", strict=True)


class _PhraseEntry(_Strict):
    text: Words
    categories: tuple[Words, ...] = Field(min_length=1)


class Phrase(BaseModel):
    """What a rewriter can be asked for: "a knife fight", its concept's name and its categories."""

    model_config = ConfigDict(frozen=True)

    text: str
    concept: str
    categories: tuple[str, ...]


class Concept(_Strict):
    """A concept of the published list; one that policy excludes has no name and no phrases."""

    id: Annotated[str, Field(pattern=r"^published-\d\d$")]
    policy: Literal["use", "exclude"]
    reason: Words
    name: Words | None = None
    phrases: tuple[_PhraseEntry, ...] = ()

    @model_validator(mode="after")
    def _policy_decides_text(self) -> Concept:
        if self.policy == "exclude" and (self.name is not None or self.phrases):
            raise ValueError("an excluded concept must have neither name nor phrases")
        if self.policy == "use" and (self.name is None or not self.phrases):
            raise ValueError("a used concept needs a name and at least one phrase")
        return self


class Taxonomy(_Strict):
    """The whole file: category names and the concepts, in published order."""

    categories: tuple[Words, ...] = Field(min_length=1)
    concepts: tuple[Concept, ...] = Field(min_length=1)

    @property
    def phrases(self) -> tuple[Phrase, ...]:
        """Every phrase of every used concept, in the file's order."""
        return tuple(
            Phrase(text=entry.text, concept=concept.name or "", categories=entry.categories)
            for concept in self.concepts
            for entry in concept.phrases
        )

    @model_validator(mode="after")
    def _holds_together(self) -> Taxonomy:
        for what, names in self._names():
            repeated = sorted({name for name in names if names.count(name) > 1})
            if repeated:
                raise ValueError(f"{what} {repeated[0]!r} is listed twice; keep one")
        for phrase in self.phrases:
            unknown = [name for name in phrase.categories if name not in self.categories]
            if unknown:
                raise ValueError(
                    f"phrase {phrase.text!r}: unknown category {unknown[0]!r}; list it or mend it"
                )
        used = {name for phrase in self.phrases for name in phrase.categories}
        unused = [name for name in self.categories if name not in used]
        if unused:
            raise ValueError(f"category {unused[0]!r} has no phrase; add one or remove it")
        return self

    def _names(self) -> Iterator[tuple[str, list[str]]]:
        yield "category", list(self.categories)
        yield "concept", [concept.id for concept in self.concepts]
        yield "concept name", [concept.name for concept in self.concepts if concept.name]
        yield "phrase", [phrase.text.casefold() for phrase in self.phrases]
        for phrase in self.phrases:
            yield f"phrase {phrase.text!r}: category", list(phrase.categories)


def load_taxonomy(path: Path | str) -> Taxonomy:
    """Read and check a taxonomy file; a `DataError` of one line names the first fault."""
    path = Path(path)
    try:
        raw = YAML(typ="safe", pure=True).load(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise DataError(f"{path}: no such file; pull the data folder") from None
    except (YAMLError, UnicodeDecodeError, OSError) as error:
        first = str(error).splitlines()[0]
        raise DataError(f"{path}: not valid YAML ({first}); mend the file") from None
    try:
        return Taxonomy.model_validate(_as_tuples(raw))
    except ValidationError as error:
        raise DataError(f"{path}: {_first_fault(error)}") from None


def _as_tuples(value: object) -> object:
    """Lists as tuples: strict models take a YAML list for nothing else."""
    if isinstance(value, dict):
        return {key: _as_tuples(item) for key, item in value.items()}
    return tuple(map(_as_tuples, value)) if isinstance(value, list) else value


def _first_fault(error: ValidationError) -> str:
    fault = error.errors()[0]
    where = ".".join(str(part) for part in fault["loc"]) or "the file"
    if fault["type"] == "extra_forbidden":
        return f"unknown key `{where}`; remove it or check its spelling"
    message = fault["msg"].removeprefix("Value error, ")
    return message if where == "the file" and fault["type"] == "value_error" else f"`{where}`: {message}"
