"""After a run: who can read what it made, and what logs, summaries and the Bento say of it."""

from __future__ import annotations

import os
import stat
from collections.abc import Iterator
from pathlib import Path

from safeclip.core.records import CAPTIONS, read_table
from safeclip.pipeline.purge import unsafe_paths
from tests.support.chain import TinyChain

TOLD = ("logs", "results/label_safety", "results/validate_data", "results/finetune", "results/gate")
"""Where nothing may be said in the captions' words (the data set itself aside)."""
_PLAIN = {".json", ".csv", ".html", ".txt", ".log", ".md"}


def files(folder: Path) -> Iterator[Path]:
    return (path for path in folder.rglob("*") if path.is_file())


def unsafe_captions(chain: TinyChain) -> list[str]:
    table = read_table(chain.root / "results/rewrite_captions/captions.parquet", CAPTIONS)
    texts = zip(table["caption_safe"].to_pylist(), table["caption_generated"].to_pylist(), strict=True)
    return [generated for safe, generated in texts if generated != safe]


def test_what_the_run_made_is_readable_by_its_owner_only(tiny_chain: TinyChain) -> None:
    for name in ("results", ".dvc/cache", ".dvc/tmp"):
        assert stat.S_IMODE((tiny_chain.root / name).stat().st_mode) & 0o077 == 0, name
    loose = [path for path in files(tiny_chain.root / "results") if path.stat().st_mode & 0o077]
    assert [path for path in loose if path.stat().st_nlink == 1] == []
    for folder, _, _ in os.walk(tiny_chain.root / "results"):
        assert Path(folder).stat().st_mode & 0o077 == 0, folder


def test_logs_and_summaries_never_say_what_a_caption_says(tiny_chain: TinyChain) -> None:
    captions = unsafe_captions(tiny_chain)
    assert len(captions) > 10
    texts = {"the log": tiny_chain.first_run.stdout + tiny_chain.first_run.stderr}
    for folder in TOLD:
        for path in files(tiny_chain.root / folder):
            if path.suffix in _PLAIN and path.name != "index.html":  # the page is for people who may look
                texts[str(path)] = path.read_text()
    assert len(texts) > 4
    said = [(where, caption) for where, text in texts.items() for caption in captions if caption in text]
    assert said == []


def test_scratch_with_unsafe_text_is_gone_after_the_run(tiny_chain: TinyChain) -> None:
    captions = [caption.encode() for caption in unsafe_captions(tiny_chain)]
    left = [path for path in files(tiny_chain.root / "work") if any(c in path.read_bytes() for c in captions)]
    assert left == []


def test_the_stages_that_make_unsafe_data_store_it_in_the_restricted_remote(tiny_chain: TinyChain) -> None:
    stages = ("tune_rewriter", "rewrite_captions", "render_images", "validate_data", "report")
    assert unsafe_paths(tiny_chain.root) == {f"results/{stage}" for stage in stages}
