"""The import closure of a stage: every file of src/safeclip whose change could change what the stage does.

Found by reading the code, not by running it: imports anywhere in a file (inside functions too), the packages
above each module, modules named in a string ("safeclip.serving.service:Embedder"), and files that are not
Python but are named in a string by a module beside them (guard_terms.yaml). dvc.yaml lists the closure as
dependencies: all of src/ would retrain at every edit, the stage's file alone would serve stale results.
"""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from pathlib import Path

PACKAGE = "safeclip"
SOURCE = Path("src")
_MODULE_NAME = re.compile(rf"{PACKAGE}(?:\.\w+)+(?::\w+)?")
_FILE_NAME = re.compile(rf"{SOURCE}/{PACKAGE}/[\w./-]+")


def import_closure(root: Path, module: str) -> list[str]:
    """Files that `module` ("safeclip.stages.gate") stands on, itself included; sorted, relative to `root`."""
    source = root / SOURCE
    found: set[Path] = set()
    waiting = [module]
    seen: set[str] = set()
    while waiting:
        name = waiting.pop()
        if name in seen:
            continue
        seen.add(name)
        if (path := _file(source, name)) is None:
            continue
        found.add(path)
        tree = ast.parse(path.read_text(encoding="utf-8"), str(path))
        waiting += [*_parents(name), *_imports(tree, name, path), *_named_modules(tree)]
        found |= _named_files(tree, path.parent)
    return sorted(path.relative_to(root).as_posix() for path in found)


def named_in_text(root: Path, text: str) -> list[str]:
    """Closures of the modules, and the files, that a configuration file (bentofile.yaml) names."""
    modules = [name for name in _MODULE_NAME.findall(text) if ":" in name]
    found = {path for path in _FILE_NAME.findall(text) if (root / path).is_file()}
    for module in modules:
        found.update(import_closure(root, module.partition(":")[0]))
    return sorted(found)


def _file(source: Path, module: str) -> Path | None:
    """The file of a module or package; None if the name is neither (an attribute, another distribution)."""
    base = source.joinpath(*module.split("."))
    for path in (base.with_suffix(".py"), base / "__init__.py"):
        if path.is_file():
            return path
    return None


def _parents(module: str) -> list[str]:
    parts = module.split(".")
    return [".".join(parts[:end]) for end in range(1, len(parts))]


def _imports(tree: ast.AST, module: str, path: Path) -> Iterator[str]:
    """Absolute names of what is imported; `from a import b` gives both a and a.b, as b may be a module."""
    package = module if path.name == "__init__.py" else module.rpartition(".")[0]
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names if _ours(alias.name))
        elif isinstance(node, ast.ImportFrom):
            base = _absolute(node, package)
            if _ours(base):
                yield base
                yield from (f"{base}.{alias.name}" for alias in node.names)


def _absolute(node: ast.ImportFrom, package: str) -> str:
    if not node.level:
        return node.module or ""
    above = package.split(".")[: len(package.split(".")) - node.level + 1]
    return ".".join([*above, *([node.module] if node.module else [])])


def _ours(name: str) -> bool:
    return name == PACKAGE or name.startswith(f"{PACKAGE}.")


def _strings(tree: ast.AST) -> Iterator[str]:
    for node in ast.walk(tree):
        if isinstance(node, ast.Constant) and isinstance(node.value, str):
            yield node.value


def _named_modules(tree: ast.AST) -> list[str]:
    return [text.partition(":")[0] for text in _strings(tree) if _MODULE_NAME.fullmatch(text)]


def _named_files(tree: ast.AST, folder: Path) -> set[Path]:
    beside = {path.name: path for path in folder.iterdir() if path.is_file() and path.suffix != ".py"}
    return {beside[text] for text in _strings(tree) if text in beside}
