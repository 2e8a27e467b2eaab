"""The registry's store behaves the same in a folder and behind the S3 protocol of a real server."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from moto.server import ThreadedMotoServer

from safeclip.core.errors import RegistryError
from safeclip.core.files import sha256
from safeclip.release.store import Store


@pytest.fixture(scope="module")
def s3() -> Iterator[str]:
    server = ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
    server.start()
    host, port = server.get_host_and_port()
    yield f"http://{host}:{port}"
    server.stop()


@pytest.fixture(params=["folder", "s3"])
def store(request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Store:
    if request.param == "folder":
        return Store("registry", tmp_path)
    import boto3
    import fsspec

    endpoint = request.getfixturevalue("s3")
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
        monkeypatch.setenv(name, "test")
    monkeypatch.setenv("AWS_DEFAULT_REGION", "us-east-1")
    monkeypatch.setitem(fsspec.config.conf, "s3", {"endpoint_url": endpoint})
    boto3.client("s3", endpoint_url=endpoint).create_bucket(Bucket="releases")
    return Store("s3://releases/safeclip", tmp_path)


def test_a_file_comes_back_as_it_went(store: Store, tmp_path: Path) -> None:
    file = tmp_path / "bento.tar"
    file.write_bytes(bytes(range(256)) * 100)
    store.put("bentos/x.tar", file)
    store.get("bentos/x.tar", tmp_path / "back.tar", sha256(file))
    assert (tmp_path / "back.tar").read_bytes() == file.read_bytes()


def test_another_digest_is_refused_and_leaves_no_file(store: Store, tmp_path: Path) -> None:
    file = tmp_path / "bento.tar"
    file.write_bytes(b"released")
    store.put("bentos/y.tar", file)
    with pytest.raises(RegistryError, match="was changed"):
        store.get("bentos/y.tar", tmp_path / "back.tar", "0" * 64)
    assert not (tmp_path / "back.tar").exists()


def test_what_is_missing_is_named(store: Store, tmp_path: Path) -> None:
    with pytest.raises(RegistryError, match=r"bentos/none\.tar: there is no such file"):
        store.get("bentos/none.tar", tmp_path / "back.tar", "0" * 64)
    assert store.read_json("index.json") is None
    assert store.names("reviews") == []


def test_json_is_replaced_and_listed(store: Store) -> None:
    store.write_json("reviews/b.json", {"state": "waiting"})
    store.write_json("reviews/a.json", {"state": "waiting"})
    store.write_json("reviews/b.json", {"state": "rejected"})
    assert store.names("reviews") == ["a.json", "b.json"]
    assert store.read_json("reviews/b.json") == {"state": "rejected"}


def test_an_upload_that_dies_half_way_never_shows(store: Store) -> None:
    def die() -> None:
        with store._writing("bentos/half.tar") as target:
            target.write(b"half")
            raise KeyboardInterrupt

    before = store.names("bentos")
    with pytest.raises(KeyboardInterrupt):
        die()
    assert store.names("bentos") == before


def test_an_s3_server_that_is_not_there_is_one_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import fsspec

    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "test")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "test")
    quick = {"endpoint_url": "http://127.0.0.1:9", "config_kwargs": {"retries": {"max_attempts": 0}}}
    monkeypatch.setitem(fsspec.config.conf, "s3", quick)
    with pytest.raises(RegistryError, match="cannot be read"):
        Store("s3://nowhere/safeclip", tmp_path).read_json("index.json")
