"""`shardrank prepare` of a source that is somewhere else, and what it remembers of it."""

from __future__ import annotations

from pathlib import Path
from uuid import uuid4

import fsspec
import pytest

from commands import shardrank
from hub_server import COMMIT, HubServer
from oracles.checkpoints import Shape, make_random_checkpoint
from shardrank.engine.model import PreparedModel
from shardrank.errors import ModelError
from shardrank.job.prepare import prepare_source


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_random_checkpoint(tmp_path_factory.mktemp("source") / "Tiny", Shape(num_layers=1))


def test_a_hub_id_is_prepared_and_remembered_with_its_commit(
    checkpoint: Path, tmp_path: Path
) -> None:
    with HubServer("Qwen/Tiny", checkpoint).running() as hub:
        done = shardrank(
            *("prepare", "Qwen/Tiny", "--revision", "main", "--output", tmp_path / "model"),
            HF_ENDPOINT=hub.url,
            HF_HOME=str(tmp_path / "hub"),
        )
    assert done.returncode == 0, done.stderr
    model = PreparedModel.load(tmp_path / "model")
    model.verify(tmp_path / "model")
    assert (model.source["name"], model.source["revision"]) == ("Qwen/Tiny", COMMIT)
    assert set(model.source["files"]) >= {"config.json", "model.safetensors"}
    assert str(tmp_path) not in (tmp_path / "model" / "reranker.json").read_text()


def test_a_url_is_prepared_and_remembered_without_its_place(
    checkpoint: Path, tmp_path: Path
) -> None:
    bucket = f"memory://{uuid4().hex}"
    for path in checkpoint.iterdir():
        with fsspec.open(f"{bucket}/Tiny/{path.name}", "wb") as file:
            file.write(path.read_bytes())
    there = prepare_source(f"{bucket}/Tiny", tmp_path / "a", cache_folder=str(tmp_path / "cache"))
    here = prepare_source(str(checkpoint), tmp_path / "b")
    assert there == here == PreparedModel.load(tmp_path / "a")
    assert there.source["name"] == "Tiny"
    assert bucket not in (tmp_path / "a" / "reranker.json").read_text()


def test_a_source_that_is_nowhere_leaves_nothing(tmp_path: Path) -> None:
    with pytest.raises(ModelError, match="there is no file or folder absent"):
        prepare_source("absent", tmp_path / "model")
    assert not any(tmp_path.iterdir())


def test_a_source_that_was_cut_is_refused_by_name(checkpoint: Path, tmp_path: Path) -> None:
    url = f"memory://{uuid4().hex}/Tiny"
    for path in checkpoint.iterdir():
        with fsspec.open(f"{url}/{path.name}", "wb") as file:
            data = path.read_bytes()
            file.write(data[:-100] if path.suffix == ".safetensors" else data)
    with pytest.raises(ModelError, match=r"model\.safetensors is truncated"):
        prepare_source(url, tmp_path / "model", cache_folder=str(tmp_path / "cache"))
    assert not (tmp_path / "model").exists()
