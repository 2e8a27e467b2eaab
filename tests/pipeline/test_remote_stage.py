"""What a remote stage refuses, without servers: edits, commits that nobody has, results of other inputs."""

from __future__ import annotations

from pathlib import Path

import pytest
from dvc.utils.serialize import load_yaml

from safeclip.core.errors import PipelineError
from safeclip.pipeline.remote_stage import (
    StageRequest,
    check_placement,
    import_result,
    prepare_request,
    run_remote,
)
from tests.support.toy import make_toy, run

AUTHOR = ("-c", "user.name=test", "-c", "user.email=test@example.org")


def quiet(line: str) -> None:
    pass


@pytest.fixture(scope="module")
def toy(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A committed toy chain whose stage `left` has run."""
    root = make_toy(tmp_path_factory.mktemp("remote_stage") / "toy")
    (root / ".gitignore").write_text("results/\n*.pid\n*.runs\n/data\n")
    for command in (
        ["dvc", "repro", "-q", "-s", "left"],
        ["git", "add", "-A"],
        ["git", *AUTHOR, "commit", "-qm", "toy"],
    ):
        done = run(root, *command)
        assert done.returncode == 0, done.stderr
    return root


def test_a_placed_stage_that_does_not_exist_is_named() -> None:
    with pytest.raises(PipelineError, match="no stage `finetun`; did you mean `finetune`"):
        check_placement({"finetun": "gpu-pool"}, {"data.dvc": (), "finetune": ("data.dvc",)})
    with pytest.raises(PipelineError, match=r"no stage `data\.dvc`"):
        check_placement({"data.dvc": "gpu-pool"}, {"data.dvc": ()})


def test_edits_that_no_commit_holds_are_refused(toy: Path) -> None:
    assert prepare_request(toy, "left", quiet).lock == (toy / "dvc.lock").read_text()
    params = (toy / "params.yaml").read_text()
    (toy / "params.yaml").write_text("seed: 2\n")
    try:
        with pytest.raises(PipelineError, match=r"works from commits; commit params\.yaml"):
            prepare_request(toy, "left", quiet)
    finally:
        (toy / "params.yaml").write_text(params)


def test_a_commit_that_origin_does_not_have_is_refused_before_anything_changes(
    toy: Path, tmp_path: Path
) -> None:
    run(tmp_path, "git", "clone", "-q", str(toy), "there")
    there = tmp_path / "there"
    lock = (there / "dvc.lock").read_text()
    with pytest.raises(PipelineError, match="origin has no commit 123412341234; push the branch"):
        run_remote(there, StageRequest("left", "1234" * 10, "stages: {}\n"), quiet)
    assert (there / "dvc.lock").read_text() == lock


def test_a_result_of_other_inputs_is_not_imported(toy: Path) -> None:
    lock = (toy / "dvc.lock").read_text()
    entry = load_yaml(str(toy / "dvc.lock"))["stages"]["left"]
    entry["deps"][0]["md5"] = "0" * 32
    with pytest.raises(
        PipelineError, match=r"left: the other pool's checkout had other inputs: data/words\.txt"
    ):
        import_result(toy, "left", entry, quiet)
    assert (toy / "dvc.lock").read_text() == lock
