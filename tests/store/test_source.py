"""Sources that are not on a hub: paths, and folders and files behind fsspec URLs."""

from __future__ import annotations

from pathlib import Path
from uuid import uuid4

import fsspec
import pytest

from shardrank.errors import InputError, ModelError
from shardrank.store.source import local_source

FILES = {
    "config.json": b"{}",
    "tokenizer.json": b"{ }",
    "model-00001-of-00002.safetensors": bytes(range(256)) * 1000,
    "model.safetensors.index.json": b"[]",
    "README.md": b"not needed",
    "onnx/model_q4.onnx": b"graph",
    "onnx/model_q4.onnx_data": b"weights",
    "onnx/other.onnx": b"not needed",
}


@pytest.fixture(params=["memory", "s3"])
def url(request: pytest.FixtureRequest) -> str:
    """A folder of a checkpoint and its exports on each kind of store."""
    if request.param == "memory":
        url = f"memory://{uuid4().hex}/reranker"
    else:
        url = f"{request.getfixturevalue('s3_bucket')}/{uuid4().hex}/reranker"
    for name, data in FILES.items():
        with fsspec.open(f"{url}/{name}", "wb") as file:
            file.write(data)
    return url


def contents(folder: Path) -> dict[str, bytes]:
    return {
        str(path.relative_to(folder)): path.read_bytes()
        for path in folder.rglob("*")
        if path.is_file()
    }


def test_a_folder_of_this_machine_is_taken_as_it_is(tmp_path: Path) -> None:
    found = local_source(str(tmp_path))
    assert (found.path, found.name, found.revision) == (tmp_path, tmp_path.name, None)


def test_a_linked_file_keeps_the_name_that_the_user_gave(tmp_path: Path) -> None:
    (tmp_path / "blob").write_bytes(b"graph")
    (tmp_path / "model.onnx").symlink_to("blob")
    assert local_source(str(tmp_path / "model.onnx")).name == "model.onnx"


@pytest.mark.parametrize("source", ["absent", "/absent/folder", "./a/b", "../a/b", "a//b"])
def test_what_is_nowhere_is_said_so(source: str) -> None:
    with pytest.raises(ModelError, match=f"there is no file or folder {source}; give one, or"):
        local_source(source)


def test_an_empty_source_is_not_the_working_directory() -> None:
    with pytest.raises(ModelError, match="an empty source"):
        local_source("")


@pytest.mark.parametrize("source", [".", "memory://x/y", "absent"])
def test_a_revision_is_for_a_hub(source: str) -> None:
    with pytest.raises(ModelError, match="is not the id of a hub repository"):
        local_source(source, "main")


def test_a_checkpoint_behind_a_url_is_fetched_without_what_nobody_reads(
    url: str, tmp_path: Path
) -> None:
    found = local_source(url, cache_folder=tmp_path)
    assert (found.name, found.revision, found.path.name) == ("reranker", None, "reranker")
    wanted = [*list(FILES)[:4]]
    assert contents(found.path) == {name: FILES[name] for name in wanted}


def test_an_export_behind_a_url_comes_with_its_neighbours(url: str, tmp_path: Path) -> None:
    found = local_source(f"{url}/onnx/model_q4.onnx", cache_folder=tmp_path)
    assert (found.name, found.path.name) == ("model_q4.onnx", "model_q4.onnx")
    assert contents(found.path.parent.parent) == {
        name: FILES[name]
        for name in (
            "config.json",
            "tokenizer.json",
            "onnx/model_q4.onnx",
            "onnx/model_q4.onnx_data",
        )
    }


def test_a_second_call_fetches_nothing_and_a_changed_source_is_another(
    url: str, tmp_path: Path
) -> None:
    first = local_source(url, cache_folder=tmp_path)
    moment = (first.path / "config.json").stat().st_mtime_ns
    assert local_source(url, cache_folder=tmp_path) == first
    assert (first.path / "config.json").stat().st_mtime_ns == moment
    with fsspec.open(f"{url}/config.json", "wb") as file:
        file.write(b"{  }")
    second = local_source(url, cache_folder=tmp_path)
    assert second.path != first.path
    assert (second.path / "config.json").read_bytes() == b"{  }"


def test_an_interrupted_fetch_goes_on_where_it_stopped(url: str, tmp_path: Path) -> None:
    complete = local_source(url, cache_folder=tmp_path).path.parent
    partial = complete.rename(tmp_path / f".{complete.name}.partial")
    weights = partial / "reranker" / "model-00001-of-00002.safetensors"
    # Other bytes than the store's: they stay only if nothing fetched them again.
    weights.write_bytes(b"x" * 1000)
    (partial / "reranker" / "config.json").unlink()
    found = local_source(url, cache_folder=tmp_path)
    data = FILES["model-00001-of-00002.safetensors"]
    assert contents(found.path)[weights.name] == b"x" * 1000 + data[1000:]
    assert (found.path / "config.json").read_bytes() == FILES["config.json"]


@pytest.mark.parametrize("place", ["absent", "reranker/absent.onnx"])
def test_a_url_that_holds_nothing_is_said_so(url: str, tmp_path: Path, place: str) -> None:
    with pytest.raises((ModelError, InputError), match="check the URL"):
        local_source(f"{url.removesuffix('/reranker')}/{place}", cache_folder=tmp_path)
    assert not any(tmp_path.iterdir())


def test_a_cache_that_cannot_be_written_is_one_message(tmp_path: Path) -> None:
    with fsspec.open("memory://full/config.json", "wb") as file:
        file.write(b"{}")
    (tmp_path / "cache").write_text("a file")
    with pytest.raises(ModelError, match="cannot keep memory://full in"):
        local_source("memory://full", cache_folder=tmp_path / "cache")


def test_a_password_in_a_url_is_not_shown(tmp_path: Path) -> None:
    with pytest.raises(InputError) as caught:
        local_source("https://user:planted@127.0.0.1:9/model", cache_folder=tmp_path)
    assert "planted" not in str(caught.value)
