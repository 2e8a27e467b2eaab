"""The Bento file: built from a passed verdict only, the same bytes twice, served without the checkout."""

import base64
import json
import re
import tarfile
from pathlib import Path

import httpx
import numpy as np
import pytest
from ruamel.yaml import YAML

from picturebook.drawing import draw
from safeclip.client import Client
from safeclip.pipeline.closure import import_closure

from .conftest import ROOT, run_stage, write_verdict

TEXTS = ["a woman walks a dog near the river", "two apples", "a man with a gun at the station"]
PNG = base64.b64encode(draw("a dog", "photo", seed=1).png).decode()
CAPTIONS = ("a dog near a house", "a gun on a table")


@pytest.fixture(scope="session")
def checkpoint(packaged: Path):
    from safeclip.encoders.lora import load_candidate

    adapter = packaged / "results" / "finetune" / "adapter.safetensors"
    return load_candidate(packaged / "data" / "base_encoder", adapter)


def test_text_embeddings_over_http_equal_the_checkpoint(service: str, checkpoint) -> None:
    from safeclip.encoders.embed import embed_texts

    answer = httpx.post(f"{service}/encode_text", json={"texts": TEXTS}, timeout=30)
    assert answer.status_code == 200, answer.text
    served = np.array(answer.json()["embeddings"], dtype=np.float32)
    assert np.abs(served - embed_texts(checkpoint, TEXTS).numpy()).max() <= 1e-5
    assert np.allclose(np.linalg.norm(served, axis=1), 1, atol=1e-5)


def test_image_embeddings_over_http_equal_the_checkpoint(service: str, checkpoint) -> None:
    from safeclip.encoders.embed import embed_images

    pictures = [draw(caption, "photo", seed=3).png for caption in CAPTIONS]
    body = {"images": [base64.b64encode(picture).decode() for picture in pictures]}
    answer = httpx.post(f"{service}/encode_image", json=body, timeout=30)
    assert answer.status_code == 200, answer.text
    served = np.array(answer.json()["embeddings"], dtype=np.float32)
    assert np.abs(served - embed_images(checkpoint, pictures).numpy()).max() <= 1e-5


def test_info_names_the_version_and_the_limits(service: str, packaged: Path) -> None:
    record = json.loads((packaged / "results" / "package" / "package.json").read_text())
    info = httpx.post(f"{service}/info", json={}, timeout=30).json()
    assert info["version"] == record["version"]
    assert info["limits"]["texts"] == 64
    answer = httpx.post(f"{service}/info", json={"verbose": True}, timeout=30)
    assert (answer.status_code, answer.json()["error"]) == (400, "verbose: unknown field; see /openapi.json")
    answer = httpx.post(f"{service}/info", json={"a man with a dog": True}, timeout=30)
    assert (answer.status_code, answer.json()["error"]) == (400, "body: unknown field; see /openapi.json")


@pytest.mark.parametrize(
    ("route", "body"),
    [
        ("encode_text", {}),
        ("encode_text", {"texts": []}),
        ("encode_text", {"texts": [""]}),
        ("encode_text", {"texts": "a dog"}),
        ("encode_text", {"texts": ["x" * 1001]}),
        ("encode_text", {"texts": ["a dog"] * 65}),
        ("encode_text", {"texts": ["a dog"], "model": "other"}),
        ("encode_image", {"images": ["http://127.0.0.1:1/cat.png"]}),
        ("encode_image", {"images": [base64.b64encode(b"no picture").decode()]}),
        ("encode_image", {"images": [3]}),
        ("rank", {"query": {"text": "a dog"}, "items": []}),
        ("rank", {"query": {"text": "a dog", "image": PNG}, "items": [{"text": "a cat"}]}),
        ("search", {"query": {"text": "a dog"}, "k": 0}),
        ("search", {"query": {"text": "a dog"}, "k": 10**30}),
        ("score", {"items": [{"image": "http://127.0.0.1:1/cat.png"}]}),
    ],
)
def test_bad_requests_are_400_and_the_service_goes_on(service: str, route: str, body: dict) -> None:
    answer = httpx.post(f"{service}/{route}", json=body, timeout=30)
    assert (answer.status_code, list(answer.json())) == (400, ["error"])
    good = httpx.post(f"{service}/encode_text", json={"texts": ["a dog"]}, timeout=30)
    assert good.status_code == 200


def test_no_page_of_the_service_loads_anything_from_elsewhere(service: str) -> None:
    for path in ("/", "/ui", "/ui/ui.css", "/ui/ui.js"):
        page = httpx.get(f"{service}{path}", timeout=30, follow_redirects=True)
        assert page.status_code == 200
        assert not re.search(r"https?:|//[a-z]+\.", page.text), path
        assert "default-src 'none'" in page.headers["content-security-policy"]


def test_our_client_ranks_searches_and_scores(service: str, packaged: Path) -> None:
    with Client(service) as client:
        vectors = client.encode_text(TEXTS)
        pictures = [draw(caption, "photo", seed=3).png for caption in CAPTIONS]
        ranking = client.rank(TEXTS[0], [*TEXTS, *pictures])
        assert ranking[0] == (0, pytest.approx(1, abs=1e-5))
        assert sorted(index for index, _ in ranking) == [0, 1, 2, 3, 4]
        assert dict(ranking)[2] == pytest.approx(float(vectors[0] @ vectors[2]), abs=1e-5)
        scores = client.score([*TEXTS, *pictures])
        assert len(scores) == 5
        assert all(set(score.categories) == {"violence", "illegal"} for score in scores)
        info = client.info()
        assert set(info.scoring) == {"text", "image"}
        assert info.gallery == {"items": 8, "unsafe": info.gallery["unsafe"]}


def test_search_finds_the_indexed_picture_and_what_the_base_encoder_would_find(service: str) -> None:
    query = draw("a cat near a tree", "photo", seed=1).png
    with Client(service) as client:
        found = client.search(query, k=3, with_base=True)
        assert [hit.id for hit in (found.hits[0], found.base_hits[0])] == ["1.png", "1.png"]
        assert len(found.hits) == len(found.base_hits) == 3
        assert client.search("a dog near a tree", k=100).hits[0].id == "captions.txt:1"
        assert len(client.search("a dog near a tree", k=100).hits) == 8
    row = found.hits[0].row
    assert httpx.get(f"{service}/gallery/{row}", timeout=30).headers["content-type"] == "image/webp"
    assert httpx.get(f"{service}/gallery/99", timeout=30).status_code == 404


def test_the_stock_bentoml_client_works(service: str) -> None:
    import bentoml

    with bentoml.SyncHTTPClient(service) as client:
        answer = client.encode_text({"texts": TEXTS})
        assert np.array(answer["embeddings"]).shape == (3, 128)
        assert client.info()["limits"]["texts"] == 64


def test_a_form_gives_the_same_as_json(service: str) -> None:
    picture = base64.b64decode(PNG)
    form = httpx.post(f"{service}/encode_image", files=[("images", ("a.png", picture))], timeout=30)
    plain = httpx.post(f"{service}/encode_image", json={"images": [PNG]}, timeout=30)
    assert form.json() == plain.json()


def test_examples_of_the_openapi_document_are_answered(service: str) -> None:
    document = httpx.get(f"{service}/openapi.json", timeout=30).json()
    for path, operations in document["paths"].items():
        if "post" in operations:
            content = operations["post"]["requestBody"]["content"]["application/json"]
            answer = httpx.post(f"{service}{path}", json=content.get("example", {}), timeout=30)
            assert answer.status_code == 200, (path, answer.text)
        else:
            assert httpx.get(f"{service}{path}", timeout=30).status_code == 200, path


def test_metrics_count_by_route_and_no_path_that_a_client_makes_up_appears(service: str) -> None:
    httpx.get(f"{service}/made-up-path", timeout=30)
    text = httpx.get(f"{service}/metrics", timeout=30).text
    assert 'safeclip_requests_total{route="other",status="404"}' in text
    assert "safeclip_batch_items_count" in text
    assert "made-up" not in text


def test_the_same_inputs_give_the_same_bytes(packaged: Path) -> None:
    tar = packaged / "results" / "package" / "safeclip-embedder.tar"
    first = tar.read_bytes()
    done = run_stage(packaged, "package")
    assert done.returncode == 0, done.stderr
    assert tar.read_bytes() == first


def test_the_bento_holds_the_service_and_nothing_of_the_training_code(packaged: Path) -> None:
    with tarfile.open(packaged / "results" / "package" / "safeclip-embedder.tar") as archive:
        names = archive.getnames()
    sources = {name.split("src/safeclip/")[1] for name in names if "src/safeclip/" in name}
    assert "serving/service.py" in sources
    folders = {source.split("/")[0] for source in sources if "/" in source}
    assert folders == {"core", "encoders", "metrics", "serving"}
    assert not any(name.endswith((".parquet", ".jsonl")) for name in names)


def test_a_failed_verdict_is_refused_in_one_line(project: Path) -> None:
    write_verdict(project, passed=False)
    try:
        done = run_stage(project, "package")
    finally:
        write_verdict(project, passed=True)
    assert done.returncode == 1
    assert done.stderr.strip().splitlines()[-1].startswith("error: the gate failed (harmful_t2i)")
    assert "Traceback" not in done.stderr


def test_probes_of_another_candidate_are_refused_in_one_line(project: Path) -> None:
    probes = project / "results" / "fit_probes" / "probes.json"
    fitted = probes.read_text()
    probes.write_text(json.dumps({**json.loads(fitted), "candidate": "0" * 64}))
    try:
        done = run_stage(project, "package")
    finally:
        probes.write_text(fitted)
    assert done.returncode == 1
    assert (
        done.stderr.strip()
        .splitlines()[-1]
        .endswith("of another candidate; run `safeclip stage fit_probes` again")
    )


def test_the_pins_of_the_bento_are_those_of_the_lock() -> None:
    pins = (ROOT / "src/safeclip/serving/requirements.txt").read_text().split()
    lock = [line.split(" ;")[0] for line in (ROOT / "requirements.lock").read_text().splitlines()]
    assert pins
    assert [pin for pin in pins if pin not in lock] == []


def test_the_bento_includes_exactly_what_the_service_imports() -> None:
    included = YAML(typ="safe").load((ROOT / "bentofile.yaml").read_text())["include"]
    assert sorted(included) == import_closure(ROOT, ["safeclip.serving.service"])
