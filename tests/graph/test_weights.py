"""A checkpoint is read tensor by tensor, and a broken one is told by file and tensor."""

from __future__ import annotations

import json
from pathlib import Path

import ml_dtypes
import numpy as np
import pytest
from safetensors.numpy import save_file

from shardrank.errors import ModelError
from shardrank.graph.weights import Checkpoint


def save(folder: Path, tensors: dict[str, np.ndarray], name: str = "model.safetensors") -> Path:
    folder.mkdir(exist_ok=True)
    (folder / "config.json").write_text("{}")
    save_file(tensors, folder / name)
    return folder


@pytest.fixture
def values() -> np.ndarray:
    return np.random.default_rng(0).standard_normal((6, 4)).astype(np.float32)


@pytest.mark.parametrize("dtype", [np.float32, np.float16, ml_dtypes.bfloat16])
def test_every_float_type_becomes_float32(tmp_path: Path, values: np.ndarray, dtype: type) -> None:
    checkpoint = Checkpoint(save(tmp_path, {"a": values.astype(dtype)}))
    np.testing.assert_array_equal(checkpoint.read("a"), values.astype(dtype).astype(np.float32))
    assert checkpoint.read("a").dtype == np.float32


def test_rows_are_read_alone(tmp_path: Path, values: np.ndarray) -> None:
    checkpoint = Checkpoint(save(tmp_path, {"a": values * 2, "b": values}))
    np.testing.assert_array_equal(checkpoint.read_rows("b", 2, 5), values[2:5])


def test_blocks_make_up_the_whole(tmp_path: Path) -> None:
    table = (np.arange(3_000 * 4_096) % 2_048).astype(np.float16).reshape(3_000, 4_096)
    blocks = list(Checkpoint(save(tmp_path, {"a": table})).blocks("a"))
    assert len(blocks) == 2
    np.testing.assert_array_equal(np.concatenate(blocks), table.astype(np.float32))


def test_names_are_known_without_the_prefix(tmp_path: Path, values: np.ndarray) -> None:
    checkpoint = Checkpoint(save(tmp_path, {"model.norm.weight": values, "lm_head.weight": values}))
    assert checkpoint.names == ["lm_head.weight", "norm.weight"]


def test_a_quantized_tensor_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ModelError, match=r"model\.safetensors: a is stored as I8; give the"):
        Checkpoint(save(tmp_path, {"a": np.zeros((2, 2), np.int8)}))


@pytest.mark.parametrize("bad", [np.nan, np.inf])
def test_a_weight_that_is_no_number_is_refused(
    tmp_path: Path, values: np.ndarray, bad: float
) -> None:
    values[2, 3] = bad
    checkpoint = Checkpoint(save(tmp_path, {"a": values}))
    with pytest.raises(ModelError, match=r"model\.safetensors: a holds NaN or infinity"):
        checkpoint.read("a")


def test_a_truncated_file_names_the_tensor_that_it_cuts(tmp_path: Path, values: np.ndarray) -> None:
    path = save(tmp_path, {"a": values}) / "model.safetensors"
    path.write_bytes(path.read_bytes()[:-1])
    with pytest.raises(ModelError, match=r"model\.safetensors is truncated: a ends at byte"):
        Checkpoint(tmp_path)


def test_a_file_that_shrinks_while_it_is_read_is_told(tmp_path: Path, values: np.ndarray) -> None:
    checkpoint = Checkpoint(save(tmp_path, {"a": values}))
    path = tmp_path / "model.safetensors"
    path.write_bytes(path.read_bytes()[:-1])
    with pytest.raises(ModelError, match=r"model\.safetensors ends within a"):
        checkpoint.read("a")


@pytest.mark.parametrize(
    "content",
    [b"", b"abc", b"\xff" * 64, b"\x05" + bytes(7) + b"[1,2]", b"\x02" + bytes(7) + b"x}"],
)
def test_another_kind_of_file_is_refused(tmp_path: Path, content: bytes) -> None:
    save(tmp_path, {})
    (tmp_path / "model.safetensors").write_bytes(content)
    with pytest.raises(ModelError, match=r"model\.safetensors"):
        Checkpoint(tmp_path)


@pytest.mark.parametrize(
    "entry",
    [
        7,
        {"dtype": "F32", "shape": [2]},
        {"dtype": "F32", "shape": [2], "data_offsets": [0, 4]},
        {"dtype": "F32", "shape": [-1], "data_offsets": [4, 0]},
        {"dtype": "F32", "shape": [1], "data_offsets": [-4, 0]},
        {"dtype": "F32", "shape": ["x"], "data_offsets": [0, 4]},
    ],
)
def test_a_broken_header_names_the_tensor(tmp_path: Path, entry: object) -> None:
    save(tmp_path, {})
    header = json.dumps({"a": entry}).encode()
    content = len(header).to_bytes(8, "little") + header + bytes(64)
    (tmp_path / "model.safetensors").write_bytes(content)
    with pytest.raises(ModelError, match=r"model\.safetensors.*\ba\b"):
        Checkpoint(tmp_path)


def test_a_file_that_the_index_names_must_be_there(tmp_path: Path, values: np.ndarray) -> None:
    save(tmp_path, {"a": values}, "one.safetensors")
    index = {"weight_map": {"a": "one.safetensors", "b": "two.safetensors"}}
    (tmp_path / "model.safetensors.index.json").write_text(json.dumps(index))
    with pytest.raises(ModelError, match=r"two\.safetensors is missing"):
        Checkpoint(tmp_path)


def test_an_index_cannot_lead_out_of_the_folder(tmp_path: Path, values: np.ndarray) -> None:
    folder = save(tmp_path / "checkpoint", {"a": values}, "one.safetensors")
    index = {"weight_map": {"a": "../one.safetensors"}}
    (folder / "model.safetensors.index.json").write_text(json.dumps(index))
    with pytest.raises(ModelError, match=r"'\.\./one\.safetensors', which lies outside"):
        Checkpoint(folder)


def test_a_tensor_in_two_files_is_refused(tmp_path: Path, values: np.ndarray) -> None:
    save(tmp_path, {"a": values}, "one.safetensors")
    save(tmp_path, {"a": values, "b": values}, "two.safetensors")
    index = {"weight_map": {"a": "one.safetensors", "b": "two.safetensors"}}
    (tmp_path / "model.safetensors.index.json").write_text(json.dumps(index))
    with pytest.raises(ModelError, match=r"two\.safetensors holds a, which one\.safetensors"):
        Checkpoint(tmp_path)


def test_a_folder_without_weights_is_told_what_belongs_there(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text("{}")
    with pytest.raises(ModelError, match=r"neither model\.safetensors nor model\.safetensors"):
        Checkpoint(tmp_path)


def test_a_folder_without_config_is_no_checkpoint(tmp_path: Path) -> None:
    with pytest.raises(ModelError, match=r"holds no config\.json"):
        Checkpoint(tmp_path)


@pytest.mark.parametrize("text", ["", "[]", "\xff"])
def test_a_broken_config_is_told(tmp_path: Path, text: str) -> None:
    (tmp_path / "config.json").write_text(text, encoding="latin-1")
    with pytest.raises(ModelError, match=r"config\.json"):
        Checkpoint(tmp_path)


def test_a_path_that_is_no_folder_is_told(tmp_path: Path) -> None:
    with pytest.raises(ModelError, match="is not a folder"):
        Checkpoint(tmp_path / "nothing")
