"""reranker.json says what a folder is, and a folder that is something else is told so."""

from __future__ import annotations

import json
import shutil
from dataclasses import replace
from pathlib import Path

import pytest

from graph_models import Built
from shardrank.engine.model import PreparedModel
from shardrank.errors import ModelError


@pytest.fixture
def folder(grouped: Built, tmp_path: Path) -> Path:
    return Path(shutil.copytree(grouped.folder, tmp_path / "model"))


def edit(folder: Path, **values: object) -> None:
    path = folder / "reranker.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), **values}))


def test_what_was_saved_is_loaded(folder: Path) -> None:
    model = PreparedModel.load(folder).with_check({"note": "ümläut"})
    model.save(folder)
    assert PreparedModel.load(folder) == model


def test_saving_twice_gives_the_same_bytes(folder: Path) -> None:
    before = (folder / "reranker.json").read_bytes()
    PreparedModel.load(folder).save(folder)
    assert (folder / "reranker.json").read_bytes() == before


def test_a_missing_folder_is_told_what_to_do(tmp_path: Path) -> None:
    with pytest.raises(
        ModelError, match="is not a folder.*`shardrank prepare SOURCE --output DIR`"
    ):
        PreparedModel.load(tmp_path / "nothing")


def test_another_folder_is_not_a_prepared_model(tmp_path: Path) -> None:
    with pytest.raises(ModelError, match=r"holds no reranker\.json, so it is not a prepared model"):
        PreparedModel.load(tmp_path)


@pytest.mark.parametrize("content", [b"{", b"\xff\xfe\x00"])
def test_a_description_that_is_not_json_is_told(folder: Path, content: bytes) -> None:
    (folder / "reranker.json").write_bytes(content)
    with pytest.raises(ModelError, match=r"reranker\.json cannot be read as JSON"):
        PreparedModel.load(folder)


@pytest.mark.parametrize("text", ["[]", "{}", '{"format_version": "1"}'])
def test_a_description_of_something_else_is_told(folder: Path, text: str) -> None:
    (folder / "reranker.json").write_text(text)
    with pytest.raises(ModelError, match="has no format_version"):
        PreparedModel.load(folder)


def test_a_newer_format_asks_for_a_newer_shardrank(folder: Path) -> None:
    edit(folder, format_version=2)
    with pytest.raises(ModelError, match="format_version 2 and this shardrank reads up to 1"):
        PreparedModel.load(folder)


@pytest.mark.parametrize(
    ("field", "value"),
    [("yes_id", "1"), ("yes_id", True), ("batch_dependent", 0), ("files", []), ("layout", None)],
)
def test_a_field_of_another_kind_is_named(folder: Path, field: str, value: object) -> None:
    edit(folder, **{field: value})
    with pytest.raises(ModelError, match=f"stands where {field} should be"):
        PreparedModel.load(folder)


def test_a_field_that_is_not_there_is_named(folder: Path) -> None:
    path = folder / "reranker.json"
    values = json.loads(path.read_text())
    del values["max_tokens"]
    path.write_text(json.dumps(values))
    with pytest.raises(ModelError, match="nothing stands where max_tokens should be"):
        PreparedModel.load(folder)


def test_an_unknown_prompt_style_is_refused(folder: Path) -> None:
    edit(folder, prompt_style="chat")
    with pytest.raises(ModelError, match="prompt_style 'chat' is unknown"):
        PreparedModel.load(folder)


@pytest.mark.parametrize("name", ["../model.onnx", "/etc/passwd", "", ".."])
def test_a_file_outside_the_folder_is_refused(folder: Path, name: str) -> None:
    edit(folder, files={name: "0"})
    with pytest.raises(ModelError, match="a model's files lie in its own folder"):
        PreparedModel.load(folder)


def test_a_model_without_graph_is_refused(folder: Path) -> None:
    edit(folder, files={"tokenizer.json": "0"})
    with pytest.raises(ModelError, match=r"lists no model\.onnx"):
        PreparedModel.load(folder)


def test_a_listed_file_must_be_there(folder: Path) -> None:
    (folder / "tokenizer.json").unlink()
    with pytest.raises(
        ModelError, match=r"tokenizer\.json is listed in reranker\.json and missing"
    ):
        PreparedModel.load(folder)


def test_a_changed_file_is_found(folder: Path) -> None:
    with (folder / "tokenizer.json").open("a") as file:
        file.write("\n")
    with pytest.raises(ModelError, match=r"tokenizer\.json changed after reranker\.json was"):
        PreparedModel.load(folder).verify(folder)


def test_an_unfinished_number_is_never_written(folder: Path) -> None:
    model = replace(PreparedModel.load(folder), check={"error": float("nan")})
    with pytest.raises(ValueError, match="JSON"):
        model.save(folder)
