"""`python -m safeclip.pipeline --sync` writes each stage's import closure into dvc.yaml, --check compares."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from ruamel.yaml import YAML
from ruamel.yaml.comments import CommentedSeq

from safeclip.errors import SafeclipError
from safeclip.pipeline.closure import SOURCE, import_closure, named_in_text
from safeclip.pipeline.graph import project_root

LOCK = "requirements.lock"


def expected_deps(root: Path, stage: str, deps: list[str]) -> list[str]:
    """The deps of a stage as they should be: its inputs as they stand, its closure, the requirements lock."""
    inputs = [dep for dep in deps if not dep.startswith(f"{SOURCE}/") and dep != LOCK]
    code = set(import_closure(root, f"safeclip.stages.{stage}"))
    for config in (root / dep for dep in inputs if "/" not in dep and dep.endswith(".yaml")):
        code.update(named_in_text(root, config.read_text(encoding="utf-8")))
    return [*inputs, *sorted(code), LOCK]


def sync(root: Path, *, write: bool) -> list[str]:
    """Names of the stages whose deps differ from what they should be; mended in dvc.yaml if `write`."""
    yaml = _yaml()
    path = root / "dvc.yaml"
    document = yaml.load(path.read_text(encoding="utf-8"))
    stale = []
    for name, stage in document["stages"].items():
        deps = expected_deps(root, name, list(stage["deps"]))
        if deps != list(stage["deps"]):
            stale.append(name)
            stage["deps"] = CommentedSeq(deps)
    if stale and write:
        with path.open("w", encoding="utf-8") as file:
            yaml.dump(document, file)
    return stale


def _yaml() -> YAML:
    yaml = YAML()
    yaml.width = 120
    yaml.indent(mapping=2, sequence=4, offset=2)
    return yaml


def main() -> int:
    """0 if dvc.yaml is (now) right, 1 if --check found it wrong."""
    parser = argparse.ArgumentParser(prog="python -m safeclip.pipeline", description=__doc__)
    how = parser.add_mutually_exclusive_group(required=True)
    how.add_argument("--sync", action="store_true", help="write the closures into dvc.yaml")
    how.add_argument("--check", action="store_true", help="only say which stages differ")
    options = parser.parse_args()
    try:
        stale = sync(project_root(), write=options.sync)
    except SafeclipError as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    print(f"{'mended' if options.sync else 'differs'}: {', '.join(stale)}" if stale else "dvc.yaml is right")
    return 1 if stale and options.check else 0


if __name__ == "__main__":
    sys.exit(main())
