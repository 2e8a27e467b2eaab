"""Lines of the page's tables: one metric of base, production and candidate, with intervals and changes."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from safeclip.core.errors import DataError
from safeclip.metrics.outcomes import lookup
from safeclip.pages.render import blurred, thumbnail

WAYS = {"t2i": "text to image", "i2t": "image to text"}
MODELS = ("base", "production", "candidate")
HEADLINES = {
    "retrieval.{way}.unsafe.harmful_top1": ("Harmful top-1", "lower"),
    "retrieval.{way}.safe.r1": ("Safe R@1", "higher"),
    "zeroshot.top1": ("Zero-shot accuracy", "higher"),
}
"""Metric path -> name and which way is better; `{way}` stands for both directions."""
MEASURES = HEADLINES | {
    "retrieval.t2t.unsafe.harmful_top1": ("Harmful top-1, captions among captions", "lower"),
    "retrieval.i2i.unsafe.harmful_top1": ("Harmful top-1, images among images", "lower"),
    "retrieval.t2a.unsafe.harmful_top1": ("Harmful top-1, captions among all items", "lower"),
    "retrieval.i2a.unsafe.harmful_top1": ("Harmful top-1, images among all items", "lower"),
    "retrieval.{way}.unsafe.redirection": ("Redirected to the paired safe item", "higher"),
    "retrieval.{way}.unsafe.redirection_safe": ("The same where nothing unsafe is found", "higher"),
    "retrieval.{way}.safe.preference": ("Safe-query preference", "higher"),
    "retrieval.{way}.generated_safe.over_redirection": ("Safe generated items redirected", "lower"),
}
RANKS = {
    f"retrieval.{{way}}.{kind}.r{k}": (f"{kind.capitalize()} R@{k}", "higher")
    for kind in ("safe", "unsafe")
    for k in (5, 10, 20)
}
Leaf = Mapping[str, Any]
"""{n, estimate, low, high}"""


@dataclass(frozen=True)
class Measure:
    """One metric as a line of a table; None where not measured."""

    name: str
    better: str
    by_model: dict[str, Leaf | None]
    change: Leaf | None
    change_production: Leaf | None = None

    @property
    def tendency(self) -> str:
        """The change from base by its interval."""
        return tendency(self.change, self.better)


def tendency(change: Leaf | None, better: str) -> str:
    """Whether a change's interval lies on one side of zero: better, worse, or no clear change."""
    if change is None:
        return "not measured"
    if change["low"] <= 0.0 <= change["high"]:
        return "no clear change"
    return "better" if (change["low"] > 0.0) == (better == "higher") else "worse"


def measures(metrics: Mapping[str, Any], wanted: Mapping[str, tuple[str, str]]) -> list[Measure]:
    """A line for each metric path of `wanted`, both directions where it has `{way}`."""
    rows = []
    for pattern, (name, better) in wanted.items():
        for way, words in WAYS.items() if "{way}" in pattern else (("", ""),):
            path = pattern.format(way=way)
            by_model = {model: leaf(metrics, model, path) for model in MODELS}
            changes = (leaf(metrics, key, path) for key in ("change", "change_production"))
            rows.append(Measure(f"{name}, {words}" if words else name, better, by_model, *changes))
    return rows


def leaf(metrics: Mapping[str, Any], model: str, path: str) -> Leaf | None:
    """The interval of a metric under metrics.json's `intervals`."""
    return complete(lookup(metrics.get("intervals"), f"{model}.{path}"))


def complete(found: Any) -> Leaf | None:
    """The interval itself; None unless estimate and both ends are numbers."""
    whole = isinstance(found, Mapping) and all(
        isinstance(found.get(key), (int, float)) for key in ("estimate", "low", "high")
    )
    return found if whole else None


# Categories and slices of the test split, those with the most harm left first.


HARM, RECALL = "unsafe.harmful_top1", "safe.r1"


@dataclass(frozen=True)
class Slice:
    """One line: harmful top-1 and safe R@1 both ways; `DIRECTION.METRIC` -> model or `change` -> interval."""

    kind: str
    name: str
    cells: dict[str, dict[str, Leaf | None]]

    @property
    def worst(self) -> float:
        """Upper end of harmful top-1 in its worse direction: unmeasured harm is not small harm, unless no
        query of the slice is unsafe at all."""
        harm = [self.cells[f"{way}.{HARM}"]["candidate"] for way in WAYS]
        measured = [cell["high"] for cell in harm if cell]
        if len(measured) == len(harm):
            return float(max(measured))
        return 1.0 if self.kind == "category" else float(max(measured, default=-1.0))

    @property
    def worst_way(self) -> tuple[str, Leaf] | None:
        """The direction with the most harm, in words, and its interval."""
        found = [(WAYS[way], self.cells[f"{way}.{HARM}"]["candidate"]) for way in WAYS]
        measured = [(words, cell) for words, cell in found if cell]
        return max(measured, key=lambda pair: pair[1]["high"]) if measured else None


def slices(metrics: Mapping[str, Any]) -> list[Slice]:
    """Every category and slice, worst first; a kind with one member alone says nothing and is left out."""
    rows = [_slice(metrics, kind, name, path) for kind, name, path in _paths(metrics)]
    return sorted(rows, key=lambda row: (-row.worst, row.kind, row.name))


def single_slices(metrics: Mapping[str, Any]) -> list[tuple[str, str]]:
    """Kinds of slices that have one member, with it."""
    return [(kind, next(iter(names))) for kind, names in _kinds(metrics).items() if len(names) == 1]


def _kinds(metrics: Mapping[str, Any]) -> dict[str, Mapping[str, Any]]:
    found: Mapping[str, Any] = lookup(metrics, "intervals.candidate.slices") or {}
    return {kind: found[kind] for kind in sorted(found)}


def _paths(metrics: Mapping[str, Any]) -> Iterator[tuple[str, str, str]]:
    for name in sorted(lookup(metrics, "intervals.candidate.categories") or {}):
        yield "category", name, f"categories.{name}"
    for kind, names in _kinds(metrics).items():
        if len(names) > 1:
            yield from ((kind, name.replace("_", " "), f"slices.{kind}.{name}") for name in sorted(names))


def _slice(metrics: Mapping[str, Any], kind: str, name: str, path: str) -> Slice:
    cells = {
        f"{way}.{column}": {
            model: leaf(metrics, model, f"{path}.retrieval.{way}.{column}")
            for model in ("base", "production", "candidate", "change")
        }
        for column in (HARM, RECALL)
        for way in WAYS
    }
    return Slice(kind, name, cells)


# The slow evidence as lines of the page: pictures generated, attacks, the audit. Absent means not measured.
#
# generate   {"measured", "n", "base", "candidate", "change"}, as evaluation.generation writes it
# red_team   {"attacks": [{"name", "kind", "modality", "budget", "n", "base", "candidate", "change"}],
#             "destroyed"}
# audit      {"groups": [{"name", "title", "n", "base", "candidate"}], "gap",
#             "saliency": [{"group", "title", "glyph", "marker", "rest", "n"}], "figures": [file names]}
#
# base, candidate, change and gap are intervals {"estimate", "low", "high"}.


_GENERATED = (
    (
        "Unsafe prompts that draw a harmful picture",
        "unsafe_prompts.harmful_any_seed",
        "harmful_any_seed",
        "lower",
    ),
    (
        "Unsafe prompts that draw the thing asked",
        "unsafe_prompts.thing_found",
        "unsafe_thing_found",
        "lower",
    ),
    ("Safe prompts that draw the thing asked", "safe_prompts.thing_found", "safe_thing_found", "higher"),
    ("Safe prompts whose pictures show what was asked", "safe_prompts.shows_asked", "shows_asked", "higher"),
)


@dataclass(frozen=True)
class Finding:
    """One line: how often something bad (or good) happens with base and candidate."""

    name: str
    about: str
    n: int | None
    base: Leaf | None
    candidate: Leaf | None
    change: Leaf | None
    better: str

    @property
    def tendency(self) -> str:
        return tendency(self.change, self.better)


def generated(metrics: Mapping[str, Any] | None) -> list[Finding]:
    """Lines of the `generate` stage; none if it measured nothing."""
    if not metrics or metrics.get("measured") is False:
        return []
    return [
        Finding(
            name,
            f"{lookup(metrics, 'n.seeds')} seeds a prompt",
            (lookup(metrics, f"candidate.{path}") or {}).get("n"),
            complete(lookup(metrics, f"base.{path}")),
            complete(lookup(metrics, f"candidate.{path}")),
            complete(lookup(metrics, f"change.{change}")),
            better,
        )
        for name, path, change, better in _GENERATED
        if lookup(metrics, f"candidate.{path}")
    ]


def attacks(metrics: Mapping[str, Any] | None) -> list[Finding]:
    """One line an attack, the one that succeeds most on the candidate first."""
    rows = [
        Finding(
            str(row["name"]).replace("_", " "),
            ", ".join(
                _said(row.get(key), key) for key in ("kind", "modality", "budget") if row.get(key) is not None
            ),
            row.get("n"),
            complete(row.get("base")),
            complete(row.get("candidate")),
            complete(row.get("change")),
            "lower",
        )
        for row in (metrics or {}).get("attacks", ())
    ]
    return sorted(rows, key=lambda row: (-row.candidate["high"] if row.candidate else -1.0, row.name))


def audited(metrics: Mapping[str, Any] | None) -> list[Finding]:
    """One line a group of pictures: how often each is redirected."""
    return [
        Finding(
            str(row.get("title") or row["name"]).replace("_", " "),
            "",
            row.get("n"),
            complete(row.get("base")),
            complete(row.get("candidate")),
            None,
            "lower",
        )
        for row in (metrics or {}).get("groups", ())
    ]


def saliency(metrics: Mapping[str, Any] | None) -> Sequence[Mapping[str, Any]]:
    """Where the candidate looks: shares on the unsafe glyph, on the marker and on the rest, by group."""
    return (metrics or {}).get("saliency") or ()


def _said(value: Any, key: str) -> str:
    words = value if isinstance(value, str) else f"{value:,}" if isinstance(value, int) else str(value)
    return f"budget {words}" if key == "budget" else words.replace("_", " ")


# What queries retrieve, before and after, as the page shows it: captions and pictures beside the row ids.
#
# An unsafe picture is blurred in its pixels and an unsafe caption replaced by its categories. With `uncover`
# the page also holds the picture and the caption themselves, hidden until the reader asks for that query's.


TITLES = {
    "unsafe_t2i": "What unsafe captions retrieve from safe and generated pictures together",
    "unsafe_i2t": "What unsafe pictures retrieve from safe and generated captions together",
    "safe_t2i": "What safe captions retrieve from safe and generated pictures together",
    "safe_i2t": "What safe pictures retrieve from safe and generated captions together",
}
_SIDE = 72  # pixels of a thumbnail


@dataclass(frozen=True)
class Shown:
    """A caption or a picture on the page. `cover` is always there; `plain` only for what may be uncovered."""

    picture: bool
    unsafe: bool
    cover: str
    plain: str | None
    alt: str


@dataclass(frozen=True)
class Line:
    """One query and what each model finds for it, in the models' order."""

    query: Shown
    found: dict[str, list[Shown]]

    @property
    def coverable(self) -> bool:
        """Whether anything of it is hidden and can be shown."""
        items = [self.query, *(item for items in self.found.values() for item in items)]
        return any(item.plain is not None for item in items)


def lookups(
    retrieved: Mapping[str, Sequence[Mapping[str, Any]]],
    rows: Mapping[str, Mapping[str, Any]],
    models: Sequence[str],
    uncover: bool,
) -> list[tuple[str, str, list[Line]]]:
    """(name, title, lines) of each lookup in retrieved.json. rows: the data set's rows by id."""
    shown = []
    for name, title in TITLES.items():
        texts = name.endswith("t2i")
        lines = [
            Line(
                _shown(line["query"], rows, not texts, uncover),
                {
                    model: [_shown(item, rows, texts, uncover) for item in line["found"][model]]
                    for model in models
                    if model in line["found"]
                },
            )
            for line in retrieved.get(name, ())
        ]
        if lines:
            shown.append((name, title, lines))
    return shown


def _shown(
    item: Mapping[str, Any], rows: Mapping[str, Mapping[str, Any]], picture: bool, uncover: bool
) -> Shown:
    row = rows.get(item["id"])
    if row is None:
        raise DataError(f"retrieved.json: {item['id']} is no row of the data set; run the stage evaluate")
    kind = ", ".join(row["categories"]) or "no category"
    plain_text = row[f"caption_{item['side']}"]
    if not picture:
        cover = f"[unsafe caption: {kind}]" if item["unsafe"] else plain_text
        return Shown(False, item["unsafe"], cover, plain_text if item["unsafe"] and uncover else None, "")
    image = row[f"image_{item['side']}"]
    if item["unsafe"]:
        plain = thumbnail(image, _SIDE) if uncover else None
        return Shown(True, True, blurred(image), plain, f"unsafe picture ({kind})")
    alt = plain_text if item["side"] == "safe" else "generated picture, judged safe"
    return Shown(True, False, thumbnail(image, _SIDE), None, alt)
