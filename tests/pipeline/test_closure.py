"""What a stage depends on is declared whole in dvc.yaml, and nothing besides."""

from __future__ import annotations

import ast
from pathlib import Path

import pytest
from ruamel.yaml import YAML

from safeclip.pipeline.closure import LOCK, expected_deps, import_closure, named_in_text, sync

ROOT = Path(__file__).resolve().parents[2]
STAGES = YAML(typ="safe").load(ROOT / "dvc.yaml")["stages"]
PARAMS = YAML(typ="safe").load(ROOT / "params.yaml")


def write(root: Path, **files: str) -> None:
    """Write modules of a made-up src/safeclip; `a__b` is a/b.py, and every folder gets an __init__.py."""
    for name, text in files.items():
        path = root / "src/safeclip" / (name.replace("__", "/") + ".py")
        path.parent.mkdir(parents=True, exist_ok=True)
        (path.parent / "__init__.py").touch()
        path.write_text(text)
    (root / "src/safeclip/__init__.py").touch()


def closure(root: Path, module: str = "safeclip.stages.one") -> set[str]:
    return {path.removeprefix("src/safeclip/") for path in import_closure(root, [module])}


def test_follows_imports_of_every_form(tmp_path: Path) -> None:
    write(
        tmp_path,
        stages__one="from safeclip import a\nimport safeclip.b.c\nfrom ..d import thing\n",
        a="def late():\n    from safeclip.e import x\n",
        b__c="",
        d="thing = 1\n",
        e="import json\n",
        unused="",
    )
    assert closure(tmp_path) == {
        "__init__.py",
        "stages/__init__.py",
        "stages/one.py",
        "a.py",
        "b/__init__.py",
        "b/c.py",
        "d.py",
        "e.py",
    }


def test_follows_modules_and_files_named_in_strings(tmp_path: Path) -> None:
    write(tmp_path, stages__one='SERVICE = "safeclip.served.app:App"\n', served__app='open("terms.yaml")\n')
    (tmp_path / "src/safeclip/served/terms.yaml").write_text("")
    (tmp_path / "src/safeclip/served/other.yaml").write_text("")
    assert {"served/app.py", "served/terms.yaml"} <= closure(tmp_path)
    assert "served/other.yaml" not in closure(tmp_path)


def test_reads_the_modules_and_files_that_a_configuration_file_names(tmp_path: Path) -> None:
    write(tmp_path, served__app="from safeclip import a\n", a="")
    (tmp_path / "src/safeclip/served/pins.txt").write_text("")
    found = named_in_text(
        tmp_path, 'service: "safeclip.served.app:App"\npins: ./src/safeclip/served/pins.txt\n'
    )
    assert {"src/safeclip/a.py", "src/safeclip/served/app.py", "src/safeclip/served/pins.txt"} <= set(found)


def test_sync_keeps_inputs_and_comments_and_corrects_the_rest(tmp_path: Path) -> None:
    write(tmp_path, stages__one="from safeclip import a\n", a="")
    (tmp_path / "params.yaml").write_text("seed: 1\n")
    (tmp_path / "dvc.yaml").write_text(
        "# the chain\nstages:\n  one:\n    cmd: x\n"
        "    deps:\n      - data/a.txt\n      - src/safeclip/gone.py\n"
    )
    assert sync(tmp_path, write=True) == ["one"]
    text = (tmp_path / "dvc.yaml").read_text()
    assert text.startswith("# the chain\n")
    deps = YAML(typ="safe").load(text)["stages"]["one"]["deps"]
    assert deps[0] == "data/a.txt"
    assert "src/safeclip/a.py" in deps
    assert "src/safeclip/gone.py" not in deps
    assert deps[-1] == LOCK
    assert sync(tmp_path, write=True) == []


@pytest.mark.parametrize("name", STAGES)
def test_dvc_yaml_lists_the_packages_of_the_import_closure(name: str) -> None:
    deps = STAGES[name]["deps"]
    assert deps == expected_deps(ROOT, name, STAGES[name], PARAMS), "run `make deps`"


@pytest.mark.parametrize("name", STAGES)
def test_a_stage_is_named_alike_everywhere(name: str) -> None:
    stage = STAGES[name]
    assert stage["cmd"] == f"python -m safeclip.stages.{name}"
    (out,) = stage["outs"]
    assert (out if isinstance(out, str) else next(iter(out))) == f"results/{name}"
    assert name in stage["params"]


@pytest.mark.parametrize("name", STAGES)
def test_params_hold_what_the_stage_reads(name: str) -> None:
    """Every `settings.x.y` of the stage's module is among its params, and `compute.workers` is not."""
    params = STAGES[name]["params"]
    read = settings_read(ROOT / f"src/safeclip/stages/{name}.py") - {"compute.workers"}
    undeclared = {key for key in read if not any(key == p or key.startswith(f"{p}.") for p in params)}
    assert not undeclared
    assert not {"compute", "compute.workers"} & set(params)


def settings_read(path: Path) -> set[str]:
    """Dotted names read from a variable called `settings`."""
    found = set()
    for node in ast.walk(ast.parse(path.read_text())):
        names = []
        while isinstance(node, ast.Attribute):
            names.append(node.attr)
            node = node.value
        if isinstance(node, ast.Name) and node.id == "settings" and names:
            found.add(".".join(reversed(names[-2:])))
    # `cfg = settings.finetune` is a read of the whole section; drop it where only longer reads of it exist
    return {key for key in found if not any(other.startswith(f"{key}.") for other in found)}
