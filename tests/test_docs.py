"""Documents: every relative link leads to a file, and every path that they name exists."""

from __future__ import annotations

import re
import subprocess
from pathlib import Path

import pytest

PROJECT = Path(__file__).resolve().parents[1]
TRACKED = subprocess.run(
    ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"],
    cwd=PROJECT,
    capture_output=True,
    text=True,
    check=True,
).stdout.split("\0")
PAGES = [path for path in TRACKED if path.endswith(".md") and (PROJECT / path).is_file()]
LINK = re.compile(r"\]\(([^)\s]+)\)")
# a path in backticks whose first folder is under version control; a trailing `::test` or `:line` is cut
NAMED_PATH = re.compile(r"`((?:src|tests|flows|params|benchmarks|scripts|deploy|docs|release)/[\w./-]+)")


@pytest.mark.parametrize("page", PAGES)
def test_every_relative_link_leads_to_a_file_or_folder(page: str) -> None:
    text = (PROJECT / page).read_text(encoding="utf-8")
    targets = [target for target in LINK.findall(text) if "://" not in target and not target.startswith("#")]
    folder = (PROJECT / page).parent
    broken = [target for target in targets if not (folder / target.split("#")[0]).exists()]
    assert not broken


@pytest.mark.parametrize("page", PAGES)
def test_every_path_that_a_page_names_exists(page: str) -> None:
    named = NAMED_PATH.findall((PROJECT / page).read_text(encoding="utf-8"))
    missing = [path for path in named if not (PROJECT / path).exists()]
    assert not missing


@pytest.mark.parametrize("folder", ["guide", "reference", "explanation", "decisions"])
def test_each_index_links_every_page_of_its_folder(folder: str) -> None:
    index = (PROJECT / "docs" / folder / "README.md").read_text(encoding="utf-8")
    pages = {path.name for path in (PROJECT / "docs" / folder).glob("*.md")} - {"README.md"}
    assert pages <= set(LINK.findall(index))


def test_code_and_parameters_name_pages_that_exist() -> None:
    of_code = [path for path in TRACKED if path.startswith(("src/", "flows/", "params"))]
    for source in of_code:
        if not source.endswith((".py", ".yaml")) or not (PROJECT / source).is_file():
            continue
        for page in re.findall(r"docs/[\w/-]+\.md", (PROJECT / source).read_text(encoding="utf-8")):
            assert (PROJECT / page).is_file(), f"{source} names {page}"
