"""Find what code each stage depends on; `python -m safeclip.pipeline.closure --sync` writes it into dvc.yaml.

A stage depends on its own module and on whole packages (folders below src/): those that its import closure
enters. The closure is found by reading the code: imports anywhere in a file (inside functions too), modules
named in a string ("safeclip.serving.service:Embedder") or in the stage's section of params.yaml
("picturebook.engine:PictureBook"), and files named in a string by a module beside them (guard_terms.yaml).

Packages instead of files keep dvc.yaml readable. The price: an edit anywhere in a package makes every stage
stale that enters the package. `NEUTRAL` modules are left out, because no edit of them changes a result.
"""

from __future__ import annotations

import argparse
import ast
import re
import sys
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

from ruamel.yaml import YAML
from ruamel.yaml.comments import CommentedSeq

from safeclip.core.errors import SafeclipError
from safeclip.pipeline.graph import project_root

LOCK = "requirements.lock"
SOURCE = Path("src")
NEUTRAL = frozenset(
    {
        "src/safeclip/__init__.py",  # the version, and switches for the tools' telemetry
        "src/safeclip/settings.py",  # types of params.yaml, no values: it can refuse a value, not change one
        "src/safeclip/stages/__init__.py",  # empty
    }
)
_MODULE_NAME = re.compile(r"\w+(?:\.\w+)+(?::\w+)?")
_FILE_NAME = re.compile(rf"{SOURCE}/[\w./-]+")


def import_closure(root: Path, modules: Iterable[str]) -> list[str]:
    """Find the files below src/ that `modules` ("safeclip.stages.gate") need, their own included.

    Returns:
        Sorted paths relative to `root`.
    """
    source = root / SOURCE
    files: set[Path] = set()
    waiting, seen = list(modules), set[str]()
    while waiting:
        name = waiting.pop()
        if name in seen:
            continue
        seen.add(name)
        if (path := _file(source, name)) is None:
            continue
        files.add(path)
        tree = ast.parse(path.read_text(encoding="utf-8"), str(path))
        waiting += [*_parents(name), *_imports(tree, name, path), *_modules_in(_strings(tree))]
        beside = {
            file.name: file for file in path.parent.iterdir() if file.is_file() and file.suffix != ".py"
        }
        files |= {beside[text] for text in _strings(tree) if text in beside}
    return sorted(path.relative_to(root).as_posix() for path in files)


def named_in_text(root: Path, text: str) -> list[str]:
    """Find the files that a configuration file (bentofile.yaml) names, and the closures of its modules."""
    modules = {name.partition(":")[0] for name in _MODULE_NAME.findall(text) if ":" in name}
    files = {path for path in _FILE_NAME.findall(text) if (root / path).is_file()}
    return sorted(files.union(import_closure(root, modules)))


def expected_deps(root: Path, name: str, stage: Mapping[str, Any], params: Mapping[str, Any]) -> list[str]:
    """Return a stage's deps as they should be: its inputs, its module, packages, the requirements."""
    inputs = [dep for dep in stage["deps"] if not dep.startswith(f"{SOURCE}/") and dep != LOCK]
    module = f"safeclip.stages.{name}"
    chosen = _modules_in(text for key in stage.get("params", ()) for text in _texts(_section(params, key)))
    files = set(import_closure(root, [module, *chosen]))
    for config in (root / dep for dep in inputs if "/" not in dep and dep.endswith(".yaml")):
        files.update(named_in_text(root, config.read_text(encoding="utf-8")))
    code = sorted({_dependency(file) for file in files - NEUTRAL})
    return [*inputs, *code, LOCK]


def sync(root: Path, *, write: bool) -> list[str]:
    """Return the stages whose deps differ from what they should be; correct dvc.yaml if `write`."""
    yaml = YAML()
    yaml.width = 120
    yaml.indent(mapping=2, sequence=4, offset=2)
    path = root / "dvc.yaml"
    document = yaml.load(path.read_text(encoding="utf-8"))
    params = YAML(typ="safe").load((root / "params.yaml").read_text(encoding="utf-8"))
    stale = []
    for name, stage in document["stages"].items():
        deps = expected_deps(root, name, stage, params)
        if deps != list(stage["deps"]):
            stale.append(name)
            stage["deps"] = CommentedSeq(deps)
    if stale and write:
        with path.open("w", encoding="utf-8") as file:
            yaml.dump(document, file)
    return stale


def _dependency(file: str) -> str:
    """Return src/safeclip/FOLDER for a file of safeclip, src/PACKAGE for another, a stage's file as it is."""
    parts = file.split("/")
    if parts[1] != "safeclip":
        return "/".join(parts[:2])
    return file if parts[2] == "stages" else "/".join(parts[:3])


def _section(params: Mapping[str, Any], key: str) -> Any:
    """Return the value at a dotted key of params.yaml, None if there is none."""
    value: Any = params
    for part in key.split("."):
        value = value.get(part) if isinstance(value, Mapping) else None
    return value


def _texts(value: Any) -> Iterator[str]:
    """Yield every string in nested lists and dictionaries."""
    if isinstance(value, str):
        yield value
    elif isinstance(value, Mapping):
        yield from _texts(list(value.values()))
    elif isinstance(value, list):
        for entry in value:
            yield from _texts(entry)


def _file(source: Path, module: str) -> Path | None:
    """Return a module's or package's file; None for an attribute or another distribution."""
    base = source.joinpath(*module.split("."))
    return next((path for path in (base.with_suffix(".py"), base / "__init__.py") if path.is_file()), None)


def _parents(module: str) -> list[str]:
    parts = module.split(".")
    return [".".join(parts[:end]) for end in range(1, len(parts))]


def _imports(tree: ast.AST, module: str, path: Path) -> Iterator[str]:
    """Yield absolute names of imports; `from a import b` gives both a and a.b, as b may be a module."""
    package = module if path.name == "__init__.py" else module.rpartition(".")[0]
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            above = package.split(".")[: len(package.split(".")) - node.level + 1] if node.level else []
            base = ".".join([*above, *([node.module] if node.module else [])])
            yield base
            yield from (f"{base}.{alias.name}" for alias in node.names)


def _strings(tree: ast.AST) -> Iterator[str]:
    for node in ast.walk(tree):
        if isinstance(node, ast.Constant) and isinstance(node.value, str):
            yield node.value


def _modules_in(texts: Iterable[str]) -> list[str]:
    return [text.partition(":")[0] for text in texts if _MODULE_NAME.fullmatch(text)]


def main() -> int:
    """Sync or check; 0 if dvc.yaml is (now) right, 1 if --check finds it wrong."""
    parser = argparse.ArgumentParser(prog="python -m safeclip.pipeline.closure", description=__doc__)
    mode = parser.add_mutually_exclusive_group(required=True)
    mode.add_argument("--sync", action="store_true", help="write the packages into dvc.yaml")
    mode.add_argument("--check", action="store_true", help="only say which stages differ")
    options = parser.parse_args()
    try:
        stale = sync(project_root(), write=options.sync)
    except SafeclipError as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    done = "corrected" if options.sync else "differs, run `make deps`"
    print(f"{done}: {', '.join(stale)}" if stale else "dvc.yaml is right")
    return 1 if stale and options.check else 0


if __name__ == "__main__":
    sys.exit(main())
