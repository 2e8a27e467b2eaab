"""A project folder in which the stage `package` has something to package."""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
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


def write_verdict(root: Path, passed: bool) -> None:
    folder = root / "results" / "gate"
    folder.mkdir(parents=True, exist_ok=True)
    verdict = {"passed": passed, "rules": [{**RULE, "passed": passed}], "digests": {}}
    (folder / "verdict.json").write_text(json.dumps(verdict))


def run_package(root: Path) -> subprocess.CompletedProcess[str]:
    env = {**os.environ, "PYTHONPATH": str(root / "src"), "BENTOML_DO_NOT_TRACK": "True"}
    command = [sys.executable, "-m", "safeclip.stages.package"]
    return subprocess.run(command, cwd=root, env=env, capture_output=True, text=True, timeout=300)


@pytest.fixture(scope="session")
def project(tmp_path_factory) -> Path:
    """A folder with the sources, the base encoder, an adapter and a passed verdict."""
    root = tmp_path_factory.mktemp("project")
    for name in ("bentofile.yaml", "pyproject.toml", "data.dvc"):
        shutil.copy(ROOT / name, root / name)
    shutil.copytree(ROOT / "src", root / "src", ignore=shutil.ignore_patterns("__pycache__"))
    shutil.copytree(ROOT / "data" / "base_encoder", root / "data" / "base_encoder")
    (root / "params.yaml").write_text("seed: 7\n")
    write_adapter(root / "results" / "finetune" / "adapter.safetensors", root / "data" / "base_encoder")
    write_verdict(root, passed=True)
    return root


@pytest.fixture(scope="session")
def packaged(project: Path) -> Path:
    """The project after its stage `package` ran."""
    done = run_package(project)
    assert done.returncode == 0, done.stderr
    return project
