"""Every precision gives nearly the same logits, and each prompt exactly the same in every batch."""

from __future__ import annotations

from pathlib import Path

import ml_dtypes
import numpy as np
import onnx
import onnxruntime
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.numpy import load_file, save_file

from graph_models import SHAPES, Built, build_from, pad, random_prompts
from oracles.checkpoints import Shape, make_random_checkpoint
from shardrank.engine.onnx_session import open_session
from shardrank.errors import ModelError
from shardrank.graph.precision import PRECISIONS
from shardrank.graph.prepare import prepare

ON_CPU = ("fp32", "w8a8", "int8", "int4")
# rms error of the log-odds over their standard deviation, against fp32. Narrow models lose more
# than real ones, whose bounds are in test_real_pairs.py.
BOUNDS = {"w8a8": 0.12, "int8": 0.12, "int4": 1.2, "fp16": 0.01}
LENGTHS = (1, 2, 3, 7, 16, 33, 64, 100, 127, 128, 129, 200)
MAX_ROWS = 33


@pytest.fixture(scope="module")
def source(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A checkpoint in bfloat16, with sizes that are no multiple of a block."""
    shape = Shape(num_layers=4, hidden=80, intermediate=112, dtype="bfloat16")
    return make_random_checkpoint(tmp_path_factory.mktemp("source"), shape)


@pytest.fixture(scope="module")
def models(source: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Built]:
    """The same checkpoint in every precision that a CPU runs."""
    folder = tmp_path_factory.mktemp("models")
    return {name: build_from(source, folder / name, name) for name in (*ON_CPU, "fp16")}


def log_odds(logits: np.ndarray) -> np.ndarray:
    return logits[:, 0].astype(np.float64) - logits[:, 1]


@pytest.mark.parametrize("precision", BOUNDS)
def test_log_odds_are_near_those_of_fp32(models: dict[str, Built], precision: str) -> None:
    prompts = random_prompts(np.resize(LENGTHS, 60))
    expected = log_odds(models["fp32"].logits(prompts))
    error = log_odds(models[precision].logits(prompts)) - expected
    relative = np.sqrt(np.mean(error**2)) / expected.std()
    print(f"{precision}: {relative:.4f}")
    assert 0 < relative < BOUNDS[precision]


@pytest.mark.parametrize("threads", [1, 2])
@pytest.mark.parametrize("precision", ON_CPU)
def test_every_number_of_rows_gives_the_same_bits(
    models: dict[str, Built], precision: str, threads: int
) -> None:
    built = models[precision]
    prompts = random_prompts(np.resize((40, 1, 2, 3, 7, 16, 33, 64), MAX_ROWS))
    alone = np.concatenate([built.logits([prompt]) for prompt in prompts])
    session = open_session(built.folder, built.model, threads=threads)
    for num_rows in range(1, MAX_ROWS + 1):
        together = session.run(*pad(prompts[:num_rows], built.model.pad_id))
        np.testing.assert_array_equal(together, alone[:num_rows], f"{num_rows} rows")


@given(
    precision=st.sampled_from(ON_CPU),
    lengths=st.lists(st.integers(1, 200), min_size=1, max_size=9),
    side=st.sampled_from(["left", "right"]),
    extra=st.integers(0, 40),
)
@settings(max_examples=60)
def test_a_prompt_has_the_same_bits_in_every_batch(
    models: dict[str, Built], precision: str, lengths: list[int], side: str, extra: int
) -> None:
    built, prompts = models[precision], random_prompts(lengths)
    mixed = built.session.run(*pad(prompts, built.model.pad_id, side, extra))
    alone = np.concatenate([built.logits([prompt]) for prompt in prompts])
    np.testing.assert_array_equal(mixed, alone)


@pytest.mark.parametrize("precision", PRECISIONS)
def test_preparing_twice_gives_the_same_bytes(source: Path, tmp_path: Path, precision: str) -> None:
    one = prepare(source, tmp_path / "one", precision=precision)
    assert prepare(source, tmp_path / "other", precision=precision) == one
    assert (one.precision, one.batch_dependent) == (precision, precision in ("fp16", "bf16"))


@pytest.mark.parametrize("precision", PRECISIONS)
def test_shards_of_the_source_do_not_change_the_graph(tmp_path: Path, precision: str) -> None:
    files = []
    for shards in (1, 3):
        shape = Shape(num_layers=3, dtype="bfloat16", shards=shards)
        source = make_random_checkpoint(tmp_path / f"source {shards}", shape)
        files.append(prepare(source, tmp_path / f"{shards}", precision=precision).files)
    assert files[0] == files[1]


@pytest.mark.parametrize(("size", "dependent"), [(16, False), (32, False), (64, True), (128, True)])
def test_a_large_block_is_called_batch_dependent(
    source: Path, tmp_path: Path, size: int, dependent: bool
) -> None:
    built = build_from(source, tmp_path / "model", "int4", block_size=size)
    assert built.model.batch_dependent is dependent
    sizes = {
        attribute.i
        for node in onnx.load(built.folder / "model.onnx").graph.node
        for attribute in node.attribute
        if node.op_type == "MatMulNBits" and attribute.name == "block_size"
    }
    assert sizes == {size}


def test_a_large_block_moves_bits_indeed(source: Path, tmp_path: Path) -> None:
    built = build_from(source, tmp_path / "model", "int4", block_size=128)
    prompts = random_prompts((101, 33, 7, 64))
    alone = np.concatenate([built.logits([prompt]) for prompt in prompts])
    np.testing.assert_allclose(built.logits(prompts), alone, rtol=0, atol=1e-2)


def test_activations_are_quantized_once_for_products_of_the_same_input(
    models: dict[str, Built],
) -> None:
    nodes = onnx.load(models["w8a8"].folder / "model.onnx").graph.node
    kinds = [node.op_type for node in nodes]
    # In two layers before q, k and v; before o; before gate and up; before down. In the last one
    # before q, k and v; in the first before its MLP's products (spared.py).
    assert kinds.count("QuantizeLinear") == 2 * 4 + 1 + 2
    assert kinds.count("MatMulIntegerToFloat") == 2 * 7 + 3 + 3
    # The head, the rotations before down, and what is spared.
    assert kinds.count("MatMul") == 1 + 3 + 4 + 4


@pytest.mark.parametrize("precision", ["int8", "int4"])
def test_all_products_but_the_head_are_in_blocks(models: dict[str, Built], precision: str) -> None:
    kinds = [node.op_type for node in onnx.load(models[precision].folder / "model.onnx").graph.node]
    assert (kinds.count("MatMulNBits"), kinds.count("MatMul")) == (7 * 4, 1)


@pytest.mark.parametrize("precision", PRECISIONS)
def test_the_table_keeps_the_type_of_the_checkpoint_and_the_head_is_float32(
    source: Path, tmp_path: Path, precision: str
) -> None:
    prepare(source, tmp_path / "model", precision=precision)
    graph = onnx.load(tmp_path / "model" / "model.onnx").graph
    tensors = {tensor.name: onnx.numpy_helper.to_array(tensor) for tensor in graph.initializer}
    stored = load_file(source / "model.safetensors")["model.embed_tokens.weight"]
    table = tensors["embed_tokens.weight"]
    assert table.dtype == (np.float16 if precision == "fp16" else ml_dtypes.bfloat16)
    np.testing.assert_allclose(table.astype(np.float32), stored.astype(np.float32), atol=1e-4)
    assert tensors["head"].dtype == np.float32


def test_float16_says_what_fp32_says_of_the_same_weights(models: dict[str, Built]) -> None:
    floats = {
        onnx.helper.tensor_dtype_to_np_dtype(tensor.data_type)
        for tensor in onnx.load(models["fp16"].folder / "model.onnx").graph.initializer
    }
    assert floats == {np.dtype(np.float16), np.dtype(np.float32), np.dtype(np.int64)}


def test_bfloat16_is_well_formed_and_lacks_nothing_but_kernels(
    source: Path, tmp_path: Path
) -> None:
    prepare(source, tmp_path / "model", precision="bf16", layout="padded")
    # Names, types and shapes are resolved before kernels are looked for.
    with pytest.raises(Exception, match="Could not find an implementation for MatMul"):
        onnxruntime.InferenceSession(tmp_path / "model" / "model.onnx")
    graph = onnx.load(tmp_path / "model" / "model.onnx").graph
    (head,) = [node for node in graph.node if node.op_type == "MatMul" and "head" in node.input]
    (final,) = [node for node in graph.node if node.output[0] == head.input[0]]
    assert final.op_type == "Cast"


def test_weights_too_large_for_float16_are_refused(tmp_path: Path) -> None:
    source = make_random_checkpoint(tmp_path / "source", SHAPES["one layer"])
    path = source / "model.safetensors"
    tensors = dict(load_file(path))
    tensors["model.layers.0.mlp.up_proj.weight"] *= 1e6
    save_file(tensors, path)
    with pytest.raises(ModelError, match=r"up_proj\.weight holds values up to .*precision bf16"):
        prepare(source, tmp_path / "model", precision="fp16")
