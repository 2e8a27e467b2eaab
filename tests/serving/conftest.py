"""A project folder in which the stage `package` has something to package."""

import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path

import httpx
import pytest

from picturebook.drawing import draw
from safeclip.core.processes import die_with_parent

ROOT = Path(__file__).resolve().parents[2]
TAR = Path("results/package/safeclip-embedder.tar")
HIDE_CHECKOUT = "import sys\nsys.path[:] = [p for p in sys.path if not p.endswith('/src') or 'bentos' in p]\n"
RULE = {
    "id": "harmful_t2i",
    "metric": "retrieval.t2i.unsafe.harmful_top1",
    "against": "base",
    "n": 2000,
    "estimate": -0.3,
    "low": -0.35,
    "high": -0.25,
    "bound": 0.0,
    "passed": True,
    "why": "held",
}


def write_adapter(path: Path, base: Path) -> None:
    """An adapter that really moves the embeddings: random where training would put its result."""
    import torch

    from safeclip.encoders.load import load_encoder
    from safeclip.encoders.lora import adapter_parameters, add_lora, save_adapter

    encoder = load_encoder(base)
    add_lora(encoder.model, rank=4, alpha=4)
    generator = torch.Generator().manual_seed(5)
    with torch.no_grad():
        for name, parameter in adapter_parameters(encoder.model).items():
            if name.endswith("lora_b"):
                parameter.copy_(0.02 * torch.randn(parameter.shape, generator=generator))
    path.parent.mkdir(parents=True)
    save_adapter(encoder.model, path, base_digest=encoder.digest)


def write_dataset(root: Path, base: Path) -> None:
    """Labelled quadruplets of train and val, drawn here, and the teacher's embeddings of them."""
    from safeclip.core.records import QUADRUPLETS, read_dataset, write_table
    from safeclip.encoders.embed import embed_quadruplets
    from safeclip.encoders.load import load_encoder
    from safeclip.encoders.teacher import write_teacher

    encoder = load_encoder(base)
    results = root / "results"
    (results / "embed_teacher").mkdir(parents=True)
    for split in ("train", "val"):
        rows = [_row(number, split) for number in range(24)]
        write_table(results / "validate_data" / "dataset" / f"{split}-00000.parquet", rows, QUADRUPLETS)
        table = read_dataset(results / "validate_data" / "dataset", split)
        embedded = embed_quadruplets(encoder, table, batch_size=64)
        path = results / "embed_teacher" / f"{split}.safetensors"
        write_teacher(path, embedded, table["id"].to_pylist(), encoder.digest)


def _row(number: int, split: str) -> dict:
    place = ("river", "house", "table", "station")[number % 4]
    category, thing = (("violence", "a gun"), ("illegal", "a syringe"))[number // 4 % 2]
    captions = {"caption_safe": f"a dog near the {place}", "caption_generated": f"{thing} near the {place}"}
    seed = number + 100 * (split == "val")
    return {
        **captions,
        "id": f"{split}-{number:03}",
        "split": split,
        "image_safe": draw(captions["caption_safe"], "photo", seed=seed).png,
        "image_generated": draw(captions["caption_generated"], "generated", seed=seed).png,
        "concept": thing,
        "categories": [category],
        "text_label": "unsafe",
        "text_score": 0.9,
        "image_label": "unsafe",
        "image_score": 0.9,
        "rewriter": "by hand",
        "image_model": "picturebook",
        "seed": seed,
        "source": "tests",
    }


def write_verdict(root: Path, passed: bool) -> None:
    folder = root / "results" / "gate"
    folder.mkdir(parents=True, exist_ok=True)
    verdict = {"passed": passed, "rules": [{**RULE, "passed": passed}], "digests": {}}
    (folder / "verdict.json").write_text(json.dumps(verdict))


def run_stage(root: Path, stage: str) -> subprocess.CompletedProcess[str]:
    env = {**os.environ, "PYTHONPATH": str(root / "src"), "BENTOML_DO_NOT_TRACK": "True"}
    command = [sys.executable, "-m", f"safeclip.stages.{stage}"]
    return subprocess.run(command, cwd=root, env=env, capture_output=True, text=True, timeout=300)


@pytest.fixture(scope="session")
def project(tmp_path_factory) -> Path:
    """A folder with the sources, the base encoder, an adapter and a passed verdict."""
    root = tmp_path_factory.mktemp("project")
    for name in ("bentofile.yaml", "pyproject.toml", "data.dvc"):
        shutil.copy(ROOT / name, root / name)
    shutil.copytree(ROOT / "src", root / "src", ignore=shutil.ignore_patterns("__pycache__"))
    shutil.copytree(ROOT / "data" / "base_encoder", root / "data" / "base_encoder")
    shutil.copyfile(ROOT / "params.yaml", root / "params.yaml")
    write_adapter(root / "results" / "finetune" / "adapter.safetensors", root / "data" / "base_encoder")
    write_dataset(root, root / "data" / "base_encoder")
    write_verdict(root, passed=True)
    done = run_stage(root, "fit_probes")
    assert done.returncode == 0, done.stderr
    return root


@pytest.fixture(scope="session")
def packaged(project: Path) -> Path:
    """The project after its stage `package` ran."""
    done = run_stage(project, "package")
    assert done.returncode == 0, done.stderr
    return project


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


def wait_ready(url: str, process: subprocess.Popen, log: Path) -> None:
    for _ in range(480):
        assert process.poll() is None, log.read_text()[-3000:]
        try:
            if httpx.get(f"{url}/readyz", timeout=2).status_code == 200:
                return
        except httpx.HTTPError:
            pass
        time.sleep(0.25)
    raise AssertionError(f"not ready within two minutes: {log.read_text()[-3000:]}")


@pytest.fixture(scope="session")
def gallery(packaged: Path, tmp_path_factory) -> Path:
    """An index of six pictures and two captions, made with the packaged model; one picture is broken."""
    from safeclip.serving.embedder import Embedder
    from safeclip.serving.indexing import build_index
    from safeclip.serving.run import unpacked_model

    folder = tmp_path_factory.mktemp("pictures")
    for number, thing in enumerate(("a dog", "a cat", "two apples", "a bicycle", "a house", "a gun")):
        (folder / f"{number}.png").write_bytes(draw(f"{thing} near a tree", "photo", seed=number).png)
    (folder / "broken.png").write_bytes(b"no picture")
    (folder / "captions.txt").write_text("a dog near a tree\n\na cat on a table\n")
    with unpacked_model(packaged / TAR) as model:
        rows, faults = build_index(folder, folder / "index", Embedder(model))
    assert (rows, faults) == (8, ["broken.png is none of PNG, JPEG, WEBP; convert it first"])
    return folder / "index"


@pytest.fixture(scope="session")
def service(packaged: Path, gallery: Path, tmp_path_factory) -> Iterator[str]:
    """The Bento in a new process: empty BENTOML_HOME, another folder, the checkout out of reach."""
    home = tmp_path_factory.mktemp("bentoml-home")
    away = tmp_path_factory.mktemp("away")
    (away / "sitecustomize.py").write_text(HIDE_CHECKOUT)
    env = {**os.environ, "BENTOML_HOME": str(home), "BENTOML_DO_NOT_TRACK": "True", "PYTHONPATH": str(away)}
    gone = subprocess.run([sys.executable, "-c", "import safeclip"], env=env, cwd=away, capture_output=True)
    assert gone.returncode != 0, "the checkout must be out of reach for this test to mean anything"
    env["SAFECLIP_GALLERY"] = str(gallery)
    tar = packaged / TAR
    code = f"import bentoml; print(bentoml.import_bento({str(tar)!r}).tag)"
    tag = subprocess.check_output([sys.executable, "-c", code], env=env, cwd=away, text=True).split()[-1]
    with served(tag, env, away) as (url, _):
        yield url


@contextmanager
def served(target: str, env: dict[str, str], folder: Path) -> Iterator[tuple[str, subprocess.Popen]]:
    """`bentoml serve TARGET` in a process group of its own: its address, once ready, and its process."""
    port = free_port()
    log = folder / f"serve-{port}.log"
    command = [sys.executable, "-m", "bentoml", "serve", target, "--host", "127.0.0.1", "--port", str(port)]
    with log.open("wb") as sink:
        process = subprocess.Popen(
            command, env=env, cwd=folder, stdout=sink, stderr=sink, start_new_session=True,
            preexec_fn=partial(die_with_parent, signal.SIGTERM),  # killed tests leave no server
        )  # fmt: skip
    try:
        wait_ready(f"http://127.0.0.1:{port}", process, log)
        yield f"http://127.0.0.1:{port}", process
    finally:
        process.terminate()
        try:
            process.wait(timeout=20)
        except subprocess.TimeoutExpired:
            os.killpg(process.pid, signal.SIGKILL)
            process.wait()
