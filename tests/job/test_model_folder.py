"""A model behind a URL: fetched once, verified, whole or not at all."""

from __future__ import annotations

import logging
import os
import subprocess
import sys
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from uuid import uuid4

import fsspec
import pytest

from commands import environment
from shardrank.engine.model import PreparedModel, builtin_folder
from shardrank.errors import ModelError
from shardrank.job.model_folder import local_folder, verified_folder
from shardrank.testing import fake_model


@pytest.fixture
def source(tmp_path: Path) -> Path:
    return fake_model(tmp_path / "source")


@pytest.fixture
def url(source: Path) -> str:
    return upload(source, f"memory://{uuid4().hex}/model")


@pytest.fixture
def cache(tmp_path: Path) -> Path:
    return tmp_path / "cache"


def upload(folder: Path, url: str) -> str:
    for path in folder.iterdir():
        with fsspec.open(f"{url}/{path.name}", "wb") as file:
            file.write(path.read_bytes())
    return url


def contents(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.iterdir()}


def folders(cache: Path) -> list[Path]:
    return [path for path in cache.iterdir() if path.is_dir()]


def test_a_path_and_the_built_in_model_are_taken_where_they_are(source: Path) -> None:
    assert local_folder(str(source)) == verified_folder(str(source)) == source
    assert local_folder("demo") == verified_folder("demo") == builtin_folder()


def test_a_model_behind_a_url_is_copied_whole(url: str, source: Path, cache: Path) -> None:
    folder = local_folder(url, str(cache))
    assert contents(folder) == contents(source)
    assert folders(cache) == [folder]


def test_a_second_call_fetches_nothing(url: str, cache: Path) -> None:
    first = local_folder(url, str(cache))
    fsspec.filesystem("memory").rm(f"{url}/model.onnx")
    assert local_folder(url, str(cache)) == verified_folder(url, str(cache)) == first


def test_another_model_at_the_same_place_is_another_copy(
    url: str, cache: Path, tmp_path: Path
) -> None:
    first = local_folder(url, str(cache))
    upload(fake_model(tmp_path / "other", max_tokens=100), url)
    second = local_folder(url, str(cache))
    assert first != second
    assert PreparedModel.load(second).max_tokens == 100


@pytest.mark.parametrize("name", ["model.onnx", "tokenizer.json"])
def test_a_file_with_another_sha256_is_refused_and_nothing_is_left(
    url: str, cache: Path, name: str
) -> None:
    with fsspec.open(f"{url}/{name}", "wb") as file:
        file.write(b"other bytes")
    with pytest.raises(ModelError) as caught:
        local_folder(url, str(cache))
    assert f"{url.split('//')[1]}/{name} is not the file that reranker.json" in str(caught.value)
    assert str(cache) not in str(caught.value)
    assert folders(cache) == []


def test_a_missing_file_is_named_and_nothing_is_left(url: str, cache: Path) -> None:
    fsspec.filesystem("memory").rm(f"{url}/tokenizer.json")
    with pytest.raises(ModelError, match=r"tokenizer\.json is listed in reranker\.json and miss"):
        local_folder(url, str(cache))
    assert folders(cache) == []


@pytest.mark.parametrize("data", [b"{", b"[]", b'{"files": {"../evil": ""}}', b'{"files": [1]}'])
def test_a_description_that_is_none_is_refused(url: str, cache: Path, data: bytes) -> None:
    with fsspec.open(f"{url}/reranker.json", "wb") as file:
        file.write(data)
    with pytest.raises(ModelError, match="is not the description of a prepared model"):
        local_folder(url, str(cache))
    assert not cache.exists()


def test_a_url_without_a_model_is_said_so(cache: Path) -> None:
    with pytest.raises(ModelError, match=r"holds no reranker\.json"):
        local_folder(f"memory://{uuid4().hex}", str(cache))


@pytest.mark.parametrize("damage", ["changed", "cut", "missing"])
def test_a_damaged_copy_is_found_where_it_counts_and_fetched_again(
    url: str, source: Path, cache: Path, damage: str
) -> None:
    folder = local_folder(url, str(cache))
    graph = folder / "model.onnx"
    if damage == "changed":
        graph.write_bytes(graph.read_bytes()[::-1])
    elif damage == "cut":
        os.truncate(graph, 100)
    else:
        graph.unlink()
    assert verified_folder(url, str(cache)) == folder
    assert contents(folder) == contents(source)
    assert folders(cache) == [folder]


def test_a_changed_local_model_is_refused(source: Path) -> None:
    (source / "model.onnx").write_bytes(b"other bytes")
    assert local_folder(str(source)) == source
    with pytest.raises(ModelError, match=r"model\.onnx changed after reranker\.json was written"):
        verified_folder(str(source))


def test_the_remains_of_a_killed_fetch_are_removed(url: str, cache: Path) -> None:
    folder = local_folder(url, str(cache))
    remains = folder.rename(cache / f".{folder.name}.{uuid4().hex}")
    assert local_folder(url, str(cache)) == folder
    assert not remains.exists()


def test_a_cache_that_cannot_be_made_is_one_message(url: str, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(ModelError, match=r"cannot keep memory://.*Not a directory.*cache_folder"):
        local_folder(url, str(tmp_path / "file" / "cache"))


@pytest.fixture
def s3_model(source: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    """The URL of the model on a server of this machine, which logs each request."""
    import s3fs
    from moto.server import ThreadedMotoServer

    server = ThreadedMotoServer(ip_address="127.0.0.1", port=0)
    server.start()
    host, port = server.get_host_and_port()
    variables = {
        "AWS_ENDPOINT_URL": f"http://{host}:{port}",
        "AWS_ACCESS_KEY_ID": "key",
        "AWS_SECRET_ACCESS_KEY": "secret",
        "AWS_DEFAULT_REGION": "us-east-1",
    }
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    fs = s3fs.S3FileSystem(skip_instance_cache=True)
    fs.mkdir("models")
    fs.put(str(source), "models/fake", recursive=True)
    yield "s3://models/fake"
    server.stop()


def test_processes_that_start_together_fetch_once_and_all_get_a_whole_copy(
    s3_model: str, cache: Path, caplog: pytest.LogCaptureFixture
) -> None:
    program = (
        "import sys; from shardrank.job.model_folder import verified_folder; "
        "from shardrank.engine.model import PreparedModel; "
        "folder = verified_folder(*sys.argv[1:]); "
        "PreparedModel.load(folder).verify(folder); print(folder)"
    )
    command = [sys.executable, "-c", program, s3_model, str(cache)]
    caplog.set_level(logging.INFO, "werkzeug")
    caplog.clear()

    def start(_: int) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            command, capture_output=True, text=True, env=environment(), check=False, timeout=120
        )

    with ThreadPoolExecutor(4) as pool:
        done = list(pool.map(start, range(4)))
    assert [process.returncode for process in done] == [0] * 4, done[0].stderr
    assert len({process.stdout for process in done}) == 1
    for name in ("model.onnx", "tokenizer.json"):
        assert sum(f"GET /models/fake/{name}" in line for line in caplog.messages) == 1
