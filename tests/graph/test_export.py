"""An export is opened without trusting it: its operators, and where its weights lie."""

from __future__ import annotations

import shutil
from pathlib import Path

import onnx
import pytest
from onnx import helper

from exports import copy_export, edit_export
from shardrank.errors import ModelError
from shardrank.graph.export import Export
from shardrank.graph.prepare import prepare

DATA = "model.onnx.data"


@pytest.fixture
def path(tmp_path: Path) -> Path:
    """An export with external data."""
    return copy_export("genai_int4", tmp_path / "export")


def relocate(path: Path, **entries: str) -> Path:
    """Change where every external tensor says that it lies."""

    def change(model: onnx.ModelProto) -> None:
        for tensor in model.graph.initializer:
            for entry in tensor.external_data:
                entry.value = entries.get(entry.key, entry.value)

    return edit_export(path, change)


@pytest.mark.parametrize(
    "location", ["../secret", "a/../../secret", "/etc/passwd", "..\\secret", ""]
)
def test_external_data_outside_the_folder_is_refused(path: Path, location: str) -> None:
    shutil.copy(path.parent / DATA, path.parent.parent / "secret")
    with pytest.raises(ModelError, match="outside the model's folder; a model's files must lie"):
        Export(relocate(path, location=location))


def test_a_link_that_leaves_the_folder_is_refused(path: Path) -> None:
    (path.parent / DATA).rename(path.parent.parent / "secret")
    (path.parent / DATA).symlink_to("../secret")
    with pytest.raises(ModelError, match=rf"lies in '{DATA}', outside the model's folder"):
        prepare(path, path.parent.parent / "model")


def test_a_link_inside_the_folder_is_followed(path: Path) -> None:
    (path.parent / DATA).rename(path.parent / "weights")
    (path.parent / DATA).symlink_to("weights")
    assert Export(path).files == ["model.onnx", DATA]


@pytest.mark.parametrize("inner", ["", "onnx"])
def test_the_links_of_the_hugging_face_cache_are_followed(
    path: Path, tmp_path: Path, inner: str
) -> None:
    """snapshots/<revision>/onnx/x -> blobs/<sha>, and tokenizer.json one level up."""
    repository = tmp_path / "models--someone--export"
    snapshot = repository / "snapshots" / "abc"
    (snapshot / inner).mkdir(parents=True)
    (repository / "blobs").mkdir()
    for number, name in enumerate(("model.onnx", DATA, "tokenizer.json")):
        folder = snapshot if name == "tokenizer.json" else snapshot / inner
        shutil.move(path.parent / name, repository / "blobs" / str(number))
        (folder / name).symlink_to(repository / "blobs" / str(number))
    model = prepare(snapshot / inner / "model.onnx", tmp_path / "model")
    assert set(model.source["files"]) == {"model.onnx", DATA, "tokenizer.json"}
    assert prepare(snapshot, tmp_path / "from the folder").files == model.files


def test_missing_external_data_is_told(path: Path) -> None:
    (path.parent / DATA).unlink()
    with pytest.raises(ModelError, match=rf"lies in {DATA}, which cannot be read \(No such file"):
        Export(path)


def test_truncated_external_data_is_told(path: Path) -> None:
    (path.parent / DATA).write_bytes((path.parent / DATA).read_bytes()[:5000])
    with pytest.raises(ModelError, match=rf"of 5000 in {DATA}, which is truncated or of another"):
        Export(path)


@pytest.mark.parametrize("entries", [{"offset": "-8"}, {"length": "3"}, {"offset": "999999999"}])
def test_a_place_beyond_the_data_is_refused(path: Path, entries: dict[str, str]) -> None:
    with pytest.raises(ModelError, match="which is truncated or of another export"):
        Export(relocate(path, **entries))


def test_a_place_that_is_no_number_is_refused(path: Path) -> None:
    with pytest.raises(ModelError, match=r"the place of .* is not a number"):
        Export(relocate(path, offset="here"))


def test_external_data_of_a_node_is_refused(path: Path) -> None:
    def change(model: onnx.ModelProto) -> None:
        node = next(node for node in model.graph.node if node.op_type == "Constant")
        tensor = node.attribute[0].t
        tensor.data_location = onnx.TensorProto.EXTERNAL
        tensor.external_data.add(key="location", value="/etc/passwd")

    with pytest.raises(ModelError, match="of a node, not of the graph, lies outside the file"):
        Export(edit_export(path, change))


def test_a_file_that_is_no_model_is_refused(path: Path) -> None:
    path.write_bytes(b"<html>not found</html>")
    with pytest.raises(ModelError, match="is not an ONNX file, or is truncated"):
        Export(path)


def test_a_truncated_file_is_refused(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:9000])
    with pytest.raises(ModelError, match="is not an ONNX file, or is truncated"):
        Export(path)


def test_a_missing_file_is_told(tmp_path: Path) -> None:
    with pytest.raises(ModelError, match=r"gone\.onnx cannot be read: No such file"):
        Export(tmp_path / "gone.onnx")


def test_an_operator_of_another_domain_is_refused_by_name(path: Path) -> None:
    def change(model: onnx.ModelProto) -> None:
        model.graph.node[3].domain = "evil.custom"

    with pytest.raises(ModelError, match=r"node '/model/.*' is evil\.custom\.\w+, an operator"):
        Export(edit_export(path, change))


def test_an_operator_inside_a_branch_is_refused_by_name(path: Path) -> None:
    inner = helper.make_node("Run", [], ["x"], "inside", domain="evil.custom")
    branch = helper.make_graph([inner], "branch", [], [])

    def change(model: onnx.ModelProto) -> None:
        node = helper.make_node("If", ["c"], ["x"], then_branch=branch, else_branch=branch)
        model.graph.node.append(node)

    with pytest.raises(ModelError, match=r"node 'inside' is evil\.custom\.Run, an operator"):
        Export(edit_export(path, change))


def test_an_operator_inside_a_function_is_refused_by_name(path: Path) -> None:
    inner = helper.make_node("Run", [], ["x"], "inside", domain="evil.custom")

    def change(model: onnx.ModelProto) -> None:
        model.functions.append(helper.make_function("", "F", [], ["x"], [inner], []))

    with pytest.raises(ModelError, match=r"node 'inside' is evil\.custom\.Run, an operator"):
        Export(edit_export(path, change))


def test_an_old_opset_is_refused(path: Path) -> None:
    def change(model: onnx.ModelProto) -> None:
        model.opset_import[0].version = 11

    with pytest.raises(ModelError, match="uses opset 11; export again with opset 13 or later"):
        Export(edit_export(path, change))


def test_a_graph_that_goes_in_a_circle_is_refused(path: Path) -> None:
    def change(model: onnx.ModelProto) -> None:
        head = model.graph.node[-1]
        model.graph.node[2].input[0] = head.output[0]

    with pytest.raises(ModelError, match="reads logits before it is made, so this is no valid"):
        Export(edit_export(path, change))


def test_notes_of_the_exporter_are_not_kept(path: Path, tmp_path: Path) -> None:
    def change(model: onnx.ModelProto) -> None:
        model.doc_string = model.graph.node[0].doc_string = "/home/someone/model.py, line 7"
        model.metadata_props.add(key="where", value="/home/someone")

    prepare(edit_export(path, change), tmp_path / "model")
    assert b"/home/someone" not in (tmp_path / "model" / "model.onnx").read_bytes()
