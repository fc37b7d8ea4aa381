from __future__ import annotations

import re
from dataclasses import replace
from itertools import product
from pathlib import Path

import numpy as np
import onnxruntime
import pytest

from shardrank.engine.machine import instruction_set, num_cores, read_instruction_set
from shardrank.engine.model import PreparedModel
from shardrank.engine.onnx_session import open_session
from shardrank.engine.session import refuse_broken_mask
from shardrank.errors import ModelError
from shardrank.testing import FakeSession, fake_log_odds, fake_model

HAS_CUDA = "CUDAExecutionProvider" in onnxruntime.get_available_providers()


def array(*rows: list[int]) -> np.ndarray:
    return np.array(rows, np.int64)


def test_a_session_scores_a_padded_batch(model_folder: Path) -> None:
    session = open_session(model_folder, PreparedModel.load(model_folder))
    logits = session.run(array([0, 5, 6], [7, 8, 9]), array([0, 1, 1], [1, 1, 1]))
    assert logits.dtype == np.float32
    assert (logits[:, 0] - logits[:, 1]).tolist() == [
        fake_log_odds([5, 6]),
        fake_log_odds([7, 8, 9]),
    ]


def test_a_session_says_what_it_runs_on(model_folder: Path) -> None:
    description = open_session(model_folder, PreparedModel.load(model_folder)).description
    assert description.as_dict() == {
        "onnxruntime_version": onnxruntime.__version__,
        "provider": "CPUExecutionProvider",
        "instruction_set": read_instruction_set(),
    }


@pytest.mark.parametrize("row", [[1, 0, 1], [0, 0, 0], [0, 2, 1], [1, -1, 1]])
def test_a_broken_mask_is_refused_by_its_row(model_folder: Path, row: list[int]) -> None:
    session = open_session(model_folder, PreparedModel.load(model_folder))
    with pytest.raises(ValueError, match="attention_mask row 1 "):
        session.run(array([1, 1, 1], [1, 1, 1]), array([0, 1, 1], row))


def test_one_unbroken_run_of_ones_is_accepted_and_nothing_else() -> None:
    for row in product([0, 1, 2], repeat=4):
        if re.fullmatch("0*1+0*", "".join(map(str, row))):
            refuse_broken_mask(array([1, 1, 1, 1], list(row)))
        else:
            with pytest.raises(ValueError, match="attention_mask row 1 "):
                refuse_broken_mask(array([1, 1, 1, 1], list(row)))


def test_a_mask_without_columns_is_broken_and_one_without_rows_is_not() -> None:
    refuse_broken_mask(np.zeros((0, 3), np.int64))
    with pytest.raises(ValueError, match="attention_mask row 0 "):
        refuse_broken_mask(np.zeros((2, 0), np.int64))


def test_a_corrupt_graph_is_refused(tmp_path: Path) -> None:
    folder = fake_model(tmp_path)
    (folder / "model.onnx").write_bytes(b"not a graph")
    with pytest.raises(ModelError, match=r"model\.onnx cannot be loaded by onnxruntime"):
        open_session(folder, PreparedModel.load(folder))


def test_a_graph_with_other_inputs_is_refused(tmp_path: Path) -> None:
    from onnx import TensorProto, helper

    folder = fake_model(tmp_path)
    tensor = helper.make_tensor_value_info("x", TensorProto.FLOAT, [1])
    output = helper.make_tensor_value_info("logits", TensorProto.FLOAT, [1])
    graph = helper.make_graph([helper.make_node("Neg", ["x"], ["logits"])], "g", [tensor], [output])
    opset = [helper.make_opsetid("", 17)]
    model = helper.make_model(graph, opset_imports=opset, ir_version=8)
    (folder / "model.onnx").write_bytes(model.SerializeToString())
    with pytest.raises(ModelError, match=r"takes \['x'\]"):
        open_session(folder, PreparedModel.load(folder))


def test_a_newer_onnxruntime_is_asked_for(model_folder: Path) -> None:
    model = replace(PreparedModel.load(model_folder), min_onnxruntime="99.1")
    with pytest.raises(ModelError, match=r"needs onnxruntime 99\.1 or newer"):
        open_session(model_folder, model)


def test_versions_are_compared_as_numbers(model_folder: Path) -> None:
    model = replace(PreparedModel.load(model_folder), min_onnxruntime="1.4")
    open_session(model_folder, model, threads=1)


def test_an_unknown_layout_is_refused(model_folder: Path) -> None:
    model = replace(PreparedModel.load(model_folder), layout="paged")
    with pytest.raises(ModelError, match="layout 'paged'"):
        open_session(model_folder, model)


@pytest.mark.skipif(HAS_CUDA, reason="this onnxruntime has CUDA")
def test_a_cpu_never_stands_in_for_a_gpu(model_folder: Path) -> None:
    with pytest.raises(ModelError, match="has no CUDA"):
        open_session(model_folder, PreparedModel.load(model_folder), device="cuda")


@pytest.mark.parametrize("precision", ["fp32", "w8a8", "int8", "int4", "dynamic-int8"])
def test_a_precision_without_kernels_is_refused_on_a_gpu(
    model_folder: Path, precision: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    providers = ["CUDAExecutionProvider", "CPUExecutionProvider"]
    monkeypatch.setattr(onnxruntime, "get_available_providers", lambda: providers)
    model = replace(PreparedModel.load(model_folder), precision=precision)
    with pytest.raises(ModelError, match=f"'{precision}', which .* on the device cuda; .* bf16"):
        open_session(model_folder, model, device="cuda")


def test_a_precision_without_kernels_is_refused_on_a_cpu(model_folder: Path) -> None:
    model = replace(PreparedModel.load(model_folder), precision="bf16")
    with pytest.raises(ModelError, match="'bf16', which .* on the device cpu; .* w8a8"):
        open_session(model_folder, model)


@pytest.mark.parametrize(
    ("cpuinfo", "expected"),
    [
        ("processor : 0\nflags\t\t: fpu avx2 avx512f avx512_vnni\n", "avx512_vnni"),
        ("vendor_id : AuthenticAMD\nflags\t\t: avx512_vnni avx512_bf16\n", "avx512_bf16"),
        ("vendor_id : GenuineIntel\nflags\t\t: avx512_vnni avx512_bf16\n", "avx512_vnni"),
        ("flags\t\t: fpu avx2 avx_vnni\n", "avx_vnni"),
        ("flags\t\t: fpu avx2\nflags\t\t: fpu avx512f\n", "avx2"),
        ("Features\t: fp asimd asimddp\n", "neon_dotprod"),
        ("flags\t\t: fpu sse2\n", None),
        ("", None),
    ],
)
def test_the_best_instruction_set_is_named(cpuinfo: str, expected: str | None) -> None:
    assert instruction_set(cpuinfo) == expected


def test_there_is_at_least_one_core() -> None:
    assert num_cores() >= 1


@pytest.mark.parametrize("padding", [0, 3])
def test_the_fake_session_and_the_fake_model_agree(model_folder: Path, padding: int) -> None:
    ids = np.random.default_rng(0).integers(0, 264, (5, 40))
    mask = np.ones_like(ids)
    mask[:, :padding] = 0
    real = open_session(model_folder, PreparedModel.load(model_folder)).run(ids, mask)
    assert real.tolist() == FakeSession().run(ids, mask).tolist()
    assert len(np.unique(real[:, 0])) == 5
