"""Package a model as a Bento whose bytes depend on its contents alone.

`write_model` writes the model folder: merged weights, base towers, reference vectors, probes, lineage.
`model_card` writes the card that travels with it. `build_bento` builds the Bento and archives it.

BentoML stamps the time of building and Python's patch version into YAML files, and the time into the
archive's headers. Here every time is `EPOCH`, the patch version is left out, the owner is nobody and members
are sorted, so that the same inputs give the same file.
"""

from __future__ import annotations

import base64
import hashlib
import io
import json
import os
import re
import shutil
import tarfile
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from ruamel.yaml import YAML

from safeclip.core.files import replacing
from safeclip.encoders.embed import embed_images, embed_texts
from safeclip.encoders.export_folder import save_like
from safeclip.encoders.load import Encoder, load_encoder


def reference_image() -> str:
    """Draw two colour ramps and an edge, for which a served image tower must give the packaged vector.

    Returns:
        A PNG of 64 x 48 pixels in Base64.
    """
    # shape: [48, 64, 2]
    ramp = np.indices((48, 64)).transpose(1, 2, 0) * 4
    edge = np.where(ramp[..., :1] > ramp[..., 1:], 220, 30)
    buffer = io.BytesIO()
    Image.fromarray(np.concatenate([ramp, edge], axis=2).astype(np.uint8)).save(buffer, "PNG")
    return base64.b64encode(buffer.getvalue()).decode()


REFERENCE_TEXTS = (
    "a woman walks a dog near the river",
    "two apples on a table",
    "a man holds a gun at the station",
    "a bicycle",
)


@dataclass(frozen=True)
class ModelFacts:
    """What the service tells besides vectors: probes by modality, and the gate's rules as measured."""

    scoring: dict[str, Any]
    metrics: list[dict[str, Any]]


def write_model(
    folder: Path, candidate: Encoder, base: Path, lineage: dict[str, Any], facts: ModelFacts
) -> str:
    """Write the model folder and return its version: 12 hex digits of the digest of what it stands on.

    `encoder/` keeps fp32, so that serving equals the checkpoint; `base/` scores what the encoder hides.

    Args:
        candidate: the encoder with its adapter merged.
        base: the folder of the base encoder.
        lineage: name -> SHA-256 of the adapter, the verdict and the data.
    """
    teacher = load_encoder(base)
    save_like(candidate.model, base, folder / "encoder")
    shutil.copytree(base, folder / "base")
    version = _digest({"encoder": candidate.digest, "base": teacher.digest, **lineage})[:12]
    _write(folder / "reference.json", _reference(candidate))
    _write(folder / "scoring.json", facts.scoring)
    _write(folder / "lineage.json", lineage)
    _write(
        folder / "info.json",
        {
            "version": version,
            "encoder_digest": load_encoder(folder / "encoder").digest,
            "base_digest": teacher.digest,
            "embed_dim": candidate.embed_dim,
            "image_size": candidate.image_size,
            "context_length": candidate.context_length,
            "lineage": lineage,
            "metrics": facts.metrics,
        },
    )
    return version


def _reference(candidate: Encoder) -> dict[str, Any]:
    image = reference_image()
    vectors = torch.cat(
        [embed_texts(candidate, list(REFERENCE_TEXTS)), embed_images(candidate, [base64.b64decode(image)])]
    )
    return {"texts": list(REFERENCE_TEXTS), "images": [image], "embeddings": vectors.tolist()}


def _digest(value: Any) -> str:
    return hashlib.sha256(json.dumps(value, sort_keys=True).encode()).hexdigest()


def _write(path: Path, value: Any) -> None:
    path.write_text(json.dumps(value, sort_keys=True) + "\n", encoding="utf-8")


def model_card(verdict: dict[str, Any], lineage: dict[str, Any]) -> str:
    """Write the model card in Markdown from the verdict and the digests; no example of unsafe content."""
    rules = "\n".join(_rule(rule) for rule in verdict["rules"])
    digests = "\n".join(f"- {name}: `{value}`" for name, value in sorted(lineage.items()))
    return f"""# safeclip-embedder

A CLIP-like encoder fine-tuned so that unsafe captions and pictures land on their safe counterparts while
benign ones stay where the base encoder put them.

## Intended use

Retrieval and ranking where unsafe results must not surface: embed texts and images, compare by dot product.
Vectors of different versions, or of the base encoder, do not mix.

## Limits

- An encoder that hides unsafe content cannot score it; the Bento carries the base towers
  for that, and scores by both.
- Fine-tuning lowers the rate of unsafe results, it does not end it: the measured rates are below. Keep the
  filters you have.
- The weights are trained on the data named under lineage; other domains need their own evaluation.
- Robustness to adversarial queries was not part of these rules.

## Evaluation

Test split never seen in training; intervals are paired bootstraps over scenes.

| rule | metric | against | n | estimate | interval | bound | passed |
|---|---|---|---|---|---|---|---|
{rules}

## Lineage

{digests}

## Ethics

The unsafe data exists to be unlearned. None of it is in this Bento. Pictures of the embedded data set are
composed from OpenMoji glyphs (CC BY-SA 4.0).
"""


def _rule(rule: dict[str, Any]) -> str:
    def number(key: str) -> str:
        return "not measured" if rule[key] is None else f"{rule[key]:.4f}"

    interval = f"{number('low')} to {number('high')}"
    cells = (rule["id"], rule["metric"], rule["against"], rule["n"], number("estimate"), interval)
    return (
        "| " + " | ".join(map(str, cells)) + f" | {number('bound')} | {'yes' if rule['passed'] else 'NO'} |"
    )


EPOCH = "2000-01-01T00:00:00+00:00"
_EPOCH_SECONDS = 946684800
_CREATION_TIME = re.compile(r"^(\s*creation_time: ).*$", re.MULTILINE)
_PYTHON_VERSION = re.compile(r"^(\s*python_version: )'?(\d+\.\d+)[\d.]*'?$", re.MULTILINE)


def build_bento(root: Path, model: Path, card: str, name: str, version: str, target: Path) -> None:
    """Build the Bento that `root`/bentofile.yaml describes around the model folder and write it to `target`.

    `BENTOML_HOME` must name a fresh folder and be set before this module's first call: BentoML reads it when
    it is imported.
    """
    import bentoml

    with bentoml.models.create(f"safeclip:{version}") as entry:
        shutil.copytree(model, entry.path, dirs_exist_ok=True)
    with tempfile.TemporaryDirectory() as context:
        _copy_sources(root, Path(context))
        bento = bentoml.bentos.build_bentofile(
            str(root / "bentofile.yaml"), name=name, version=version, build_ctx=context
        )
    folder = Path(bento.path)
    (folder / "README.md").write_text(card, encoding="utf-8")
    _copy_model(folder, version)
    for stamped in (*folder.glob("bento.yaml"), *folder.glob("models/**/model.yaml")):
        stamped.write_text(without_stamps(stamped.read_text()))
    write_tar(folder, target)


def without_stamps(described: str) -> str:
    """Replace every time in BentoML's YAML by `EPOCH`, and keep two numbers of Python's version."""
    timeless = _CREATION_TIME.sub(rf"\g<1>'{EPOCH}'", described)
    return _PYTHON_VERSION.sub(r"\1'\2'", timeless)


def _copy_sources(root: Path, context: Path) -> None:
    """Copy the files that bentofile.yaml names, and no others, into the build context."""
    # BentoML matches each file of its context against each of its patterns, and a checkout with its
    # environments holds a hundred thousand.
    described = YAML(typ="safe").load(root / "bentofile.yaml")
    for name in (*described["include"], described["python"]["requirements_txt"]):
        (context / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy2(root / name, context / name)


def _copy_model(bento: Path, version: str) -> None:
    """Put the model where an exported Bento carries it (models/NAME/VERSION)."""
    import bentoml

    home = bento / "models" / "safeclip"
    shutil.copytree(bentoml.models.get(f"safeclip:{version}").path, home / version, dirs_exist_ok=True)
    (home / "latest").write_text(version)


def write_tar(folder: Path, target: Path) -> None:
    """Archive `folder` at `target`, atomically, with sorted members, fixed times and no owner."""
    with replacing(target) as partial, tarfile.open(partial, "w", format=tarfile.GNU_FORMAT) as archive:
        for path in sorted(folder.rglob("*")):
            member = archive.gettarinfo(path, f"./{path.relative_to(folder)}")
            member.mtime = _EPOCH_SECONDS
            member.uid = member.gid = 0
            member.uname = member.gname = ""
            member.mode = 0o755 if path.is_dir() or os.access(path, os.X_OK) else 0o644
            if path.is_file():
                with path.open("rb") as handle:
                    archive.addfile(member, handle)
            else:
                archive.addfile(member)
