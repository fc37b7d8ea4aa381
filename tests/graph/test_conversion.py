"""An export in another precision: its weights are kept, and only what is said changes."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import numpy_helper
from onnxruntime.capi import _pybind_state
from onnxruntime.quantization import QuantType, quantize_dynamic

from exports import (
    EXPORTS,
    NO,
    PAD,
    PROMPTS,
    YES,
    Adapted,
    Original,
    adapt_export,
    adapt_file,
    copy_export,
    edit_export,
    make_export,
)
from graph_models import pad, random_prompts
from heads import microsoft, node
from shardrank.engine.onnx_session import open_session
from shardrank.errors import ModelError
from shardrank.graph.edited import EditedGraph
from shardrank.graph.export import Export
from shardrank.graph.head import find_head
from shardrank.graph.origin import read_origin
from shardrank.graph.prepare import prepare
from shardrank.graph.trial import Trial

BLOCKS = (
    "genai_int4", "genai_int4_last_token", "genai_int4_num_logits_to_keep",
    "genai_int4_zero_points", "genai_q4", "optimum_q4", "optimum_q4_gemm_head",
)  # fmt: skip
TO_W8A8 = ("genai_quantized", "optimum_quantized", "genai_fp32", "optimum")
TO_FP32 = (*BLOCKS, "genai_quantized", "optimum_quantized")
# Of `error`: measured were 0.01 to 0.05 for blocks and floats, 0.08 to 0.12 for dynamic int8, whose
# own activations have one scale a batch.
ROUNDING = 0.15
FLOAT = 1e-4
LENGTHS = (1, 2, 3, 8, 17, 33, 64, 65, 129)


RANDOM = np.random.default_rng(5)
INPUTS, OUTPUTS = 64, 48
HEAD = RANDOM.standard_normal((OUTPUTS, 397)).astype(np.float32)
BIAS = RANDOM.standard_normal(OUTPUTS).astype(np.float32)
PAIRS = [*((name, "fp32") for name in TO_FP32), *((name, "w8a8") for name in TO_W8A8)]


@pytest.fixture(scope="module", params=PAIRS, ids="-".join)
def converted(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Adapted:
    name, precision = request.param
    return adapt_export(name, tmp_path_factory.mktemp("converted"), precision)


def at_level_0(path: Path) -> Path:
    """Let MatMulNBits multiply floats: what its blocks stand for, without rounding activations."""

    def change(model: onnx.ModelProto) -> None:
        for each in model.graph.node:
            for attribute in each.attribute:
                if attribute.name == "accuracy_level":
                    attribute.i = 0

    return edit_export(path, change)


def error_at_level_0(adapted: Adapted, path: Path) -> float:
    expected = Original(at_level_0(path)).alone(PROMPTS)
    return float(np.abs(adapted.alone(PROMPTS) - expected).max())


def weights_of(path: Path) -> dict[str, np.ndarray]:
    model = onnx.load(path)
    return {each.name: numpy_helper.to_array(each) for each in model.graph.initializer}


def error(found: np.ndarray, expected: np.ndarray) -> float:
    """Root of the mean squared difference, over the standard deviation of what is expected."""
    return float(np.sqrt(np.mean((found - expected) ** 2)) / expected.std())


def test_scores_stay_near_the_exports_own(converted: Adapted) -> None:
    assert error(converted.alone(PROMPTS), converted.original.alone(PROMPTS)) <= ROUNDING


def test_no_row_depends_on_its_batch(converted: Adapted) -> None:
    """Bit for bit, which dynamic int8 is far from."""
    assert not converted.model.batch_dependent
    prompts = random_prompts(LENGTHS)
    alone = converted.alone(prompts)
    for side, extra in (("left", 0), ("right", 0), ("left", 1)):
        np.testing.assert_array_equal(converted.batch(prompts, side, extra), alone)


def test_every_number_of_rows_gives_the_same_bits(converted: Adapted) -> None:
    prompts = random_prompts(np.arange(33) % 7 + 3)
    alone = converted.alone(prompts)
    for count in range(1, 34):
        np.testing.assert_array_equal(converted.batch(prompts[:count]), alone[:count])


def test_nothing_of_the_old_products_is_left(converted: Adapted) -> None:
    graph = onnx.load(converted.folder / "model.onnx").graph
    operators = {each.op_type for each in graph.node}
    assert not operators & {"MatMulNBits", "DynamicQuantizeLinear", "MatMulInteger"}
    assert ("MatMulIntegerToFloat" in operators) == (converted.model.precision == "w8a8")
    sizes = {each.name: list(each.dims) for each in graph.initializer}
    for each in graph.node:
        if each.op_type.startswith("MatMul"):
            assert 397 not in sizes.get(each.input[1], []), each.name


def test_the_description_names_the_new_precision(converted: Adapted) -> None:
    assert converted.model.precision in ("fp32", "w8a8")
    converted.model.verify(converted.folder)


def test_blocks_become_the_floats_that_they_stand_for(converted: Adapted, tmp_path: Path) -> None:
    if converted.name in BLOCKS:
        path = copy_export(converted.name, tmp_path / "export")
        assert error_at_level_0(converted, path) <= FLOAT


def into_blocks(
    model: onnx.ModelProto, product: onnx.NodeProto, bits: int, block_size: int, symmetric: bool
) -> None:
    """What onnxruntime's MatMulNBitsQuantizer does, which needs onnx-ir to be imported."""
    quantize = getattr(_pybind_state, f"quantize_matmul_{bits}bits")
    name = product.input[1]
    tensor = next(each for each in model.graph.initializer if each.name == name)
    matrix = numpy_helper.to_array(tensor)
    inputs, outputs = matrix.shape
    count = -(-inputs // block_size)
    integers = np.zeros((outputs, count, block_size * bits // 8), np.uint8)
    scales = np.zeros((outputs, count), np.float32)
    points = np.zeros((outputs, -(-count * bits // 8)), np.uint8)
    quantize(integers, matrix, scales, points, block_size, outputs, inputs, symmetric)
    parts = {f"{name}_q": integers, f"{name}_s": scales}
    parts |= {} if symmetric else {f"{name}_z": points}
    model.graph.initializer.extend(numpy_helper.from_array(v, k) for k, v in parts.items())
    made = microsoft(
        "MatMulNBits", " ".join([product.input[0], *parts]), product.output[0], K=inputs,
        N=outputs, bits=bits, block_size=block_size, accuracy_level=4,
    )  # fmt: skip
    product.CopyFrom(made)


@pytest.mark.parametrize("symmetric", [True, False])
@pytest.mark.parametrize(("bits", "block_size"), [(4, 16), (4, 128), (8, 32), (8, 128)])
def test_blocks_of_every_kind_become_floats(
    bits: int, block_size: int, symmetric: bool, tmp_path: Path
) -> None:
    """The inputs of the products here are 64, 96 and 128: blocks of 128 are not full."""
    path = copy_export("genai_fp32", tmp_path / "export")
    model = onnx.load(path)
    for each in [each for each in model.graph.node if each.op_type == "MatMul"]:
        into_blocks(model, each, bits, block_size, symmetric)
    path.write_bytes(model.SerializeToString())
    adapted = adapt_file(path, tmp_path / "model", precision="fp32")
    assert not adapted.model.batch_dependent
    assert error_at_level_0(adapted, path) <= FLOAT


def test_integers_are_the_exports_own(converted: Adapted) -> None:
    """The head is two columns of floats, so its integers are gone."""
    if converted.model.precision == "fp32" or "quantized" not in converted.name:
        return
    before, after = (
        {name: values for name, values in weights_of(path).items() if values.dtype == np.int8}
        for path in (EXPORTS / converted.name / "model.onnx", converted.folder / "model.onnx")
    )
    kept = {name: values for name, values in before.items() if values.ndim == 2}
    kept = {name: values for name, values in kept.items() if values.shape[1] != 397}
    assert kept.keys() == after.keys()
    for name, values in after.items():
        np.testing.assert_array_equal(values, kept[name])


def test_floats_that_a_dynamic_export_left_out_stay(tmp_path: Path) -> None:
    """Whoever quantized it had a reason."""
    weights = {
        "first": RANDOM.standard_normal((INPUTS, INPUTS)).astype(np.float32),
        "w": RANDOM.integers(-127, 128, (INPUTS, OUTPUTS)).astype(np.int8),
        "w_zero": np.array(0, np.int8), "w_scale": np.array(0.001, np.float32),
        "b": BIAS, "head": HEAD,
    }  # fmt: skip
    nodes = [node("MatMul", "hidden first", "kept"), *dynamic_product("MatMulInteger")]
    nodes[1].input[0] = "kept"
    nodes.append(node("MatMul", "middle head", "logits"))
    path = make_export(tmp_path / "model.onnx", nodes, weights)
    prepare(path, tmp_path / "model", precision="w8a8")
    operators = [each.op_type for each in onnx.load(tmp_path / "model" / "model.onnx").graph.node]
    assert operators.count("MatMul") == 2
    assert operators.count("MatMulIntegerToFloat") == 1


@pytest.mark.parametrize("weight_type", [QuantType.QInt8, QuantType.QUInt8])
@pytest.mark.parametrize("per_channel", [False, True])
def test_every_kind_of_dynamic_weights_becomes_w8a8(
    per_channel: bool, weight_type: QuantType, tmp_path: Path
) -> None:
    """As quantize_dynamic writes them; the zero points of its uint8 weights are anywhere."""
    path = copy_export("genai_fp32", tmp_path / "export")
    exact = Original(path).alone(PROMPTS)
    quantized = path.parent / "model_quantized.onnx"
    quantize_dynamic(path, quantized, per_channel=per_channel, weight_type=weight_type)
    points = [v for k, v in weights_of(quantized).items() if k.endswith("_zero_point")]
    odd = any(np.any(each.astype(int) % 128) for each in points)
    assert odd == (weight_type == QuantType.QUInt8)
    adapted = adapt_file(quantized, tmp_path / "model", precision="w8a8")
    alone = adapted.alone(PROMPTS)
    np.testing.assert_array_equal(adapted.batch(PROMPTS), alone)
    assert error(alone, adapted.original.alone(PROMPTS)) <= ROUNDING
    # One scale a token rounds less than one for the batch.
    assert error(alone, exact) <= ROUNDING


@pytest.mark.parametrize("name", ["genai_fp32", "optimum"])
def test_floats_become_what_the_checkpoint_becomes(name: str, tmp_path: Path) -> None:
    """The rotation before down_proj (rotation.py) included, which moves logits by up to 0.3.

    The builder's offset (offset.py) is taken off: an export has none.
    """
    adapted = adapt_export(name, tmp_path, "w8a8")
    model = prepare(EXPORTS / "checkpoint", tmp_path / "built", precision="w8a8", layout="padded")
    built = open_session(tmp_path / "built", model, threads=1)
    found = adapted.batch(PROMPTS)
    expected = built.run(*pad(PROMPTS, PAD)) - np.array(model.source["offset"], np.float32)
    assert np.abs(found - expected).max() <= FLOAT
    assert np.abs(found - adapted.original.alone(PROMPTS)).max() > 100 * FLOAT


@pytest.mark.parametrize("precision", ["fp32", "w8a8"])
def test_a_large_conversion_is_written_piece_by_piece(
    precision: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = adapt_export("genai_quantized", tmp_path / "whole", precision)
    monkeypatch.setattr("shardrank.graph.saving._MAX_SINGLE_FILE_BYTES", 1000)
    parted = adapt_export("genai_quantized", tmp_path / "parted", precision)
    assert "model.onnx.data" in parted.model.files
    np.testing.assert_array_equal(parted.batch(PROMPTS), whole.batch(PROMPTS))


def test_a_precision_that_is_there_changes_nothing(tmp_path: Path) -> None:
    path = copy_export("genai_fp32", tmp_path / "export")
    assert prepare(path, tmp_path / "a", precision="fp32") == prepare(path, tmp_path / "b")


def dynamic_product(form: str) -> list[onnx.NodeProto]:
    """hidden x w, quantized with one scale; the forms are of quantize_dynamic and the optimizer."""
    quantizer = node("DynamicQuantizeLinear", "hidden", "q scale zero")
    if form == "MatMulInteger":
        return [
            quantizer,
            node("MatMulInteger", "q w zero w_zero", "product"),
            node("Cast", "product", "float", to=onnx.TensorProto.FLOAT),
            node("Mul", "w_scale scale", "scales"),
            node("Mul", "scales float", "unbiased"),
            node("Add", "unbiased b", "middle"),
        ]
    if form == "MatMulIntegerToFloat":
        inputs = "q w scale w_scale zero w_zero b"
        return [quantizer, microsoft(form, inputs, "middle")]
    return [microsoft(form, "hidden w w_scale w_zero b", "middle")]


@pytest.mark.parametrize("opset", [13, 21])
@pytest.mark.parametrize("columns", [1, OUTPUTS])
@pytest.mark.parametrize("dtype", [np.int8, np.uint8])
@pytest.mark.parametrize("form", ["MatMulInteger", "MatMulIntegerToFloat", "DynamicQuantizeMatMul"])
def test_a_dynamic_product_is_what_numpy_says(
    form: str, dtype: type, columns: int, opset: int, tmp_path: Path
) -> None:
    """Each token by its own largest value to 127 levels, integers added up, both scales, bias."""
    limits = np.iinfo(dtype)
    integers = RANDOM.integers(limits.min, limits.max + 1, (INPUTS, OUTPUTS)).astype(dtype)
    points = RANDOM.integers(limits.min // 2, limits.max // 2, columns).astype(dtype)
    scales = RANDOM.uniform(0.001, 0.002, columns).astype(np.float32)
    weights = {"w": integers, "w_zero": points, "w_scale": scales, "b": BIAS, "head": HEAD}
    if columns == 1:
        weights |= {"w_zero": points[0], "w_scale": scales[0]}
    nodes = [*dynamic_product(form), node("MatMul", "middle head", "logits")]
    path = make_export(tmp_path / "model.onnx", nodes, weights, opset=opset)
    adapted = adapt_file(path, tmp_path / "model", precision="w8a8")

    prompts = random_prompts((5, 1, 9))
    hidden = np.tanh(weights_of(path)["table"])[[prompt[-1] for prompt in prompts]]
    token_scales = np.abs(hidden).max(axis=1, keepdims=True) / np.float32(127)
    tokens = np.rint(hidden / token_scales).astype(np.int64)
    sums = tokens @ (integers.astype(np.int64) - points.astype(np.int64))
    middle = sums * token_scales * scales + BIAS
    np.testing.assert_allclose(adapted.batch(prompts), middle @ HEAD[:, [YES, NO]], atol=1e-4)


def test_a_wrong_conversion_does_not_pass_the_trial(tmp_path: Path) -> None:
    """The test of the trial: here every zero point is off by one of 16 levels."""
    right = copy_export("genai_int4_zero_points", tmp_path / "right")
    wrong = copy_export("genai_int4_zero_points", tmp_path / "wrong")
    data = {each.name: each for each in Export(wrong).model.graph.initializer}
    stored = Export(wrong)
    places = [stored.stored(each) for name, each in data.items() if name.endswith("zero_points")]
    content = bytearray((wrong.parent / "model.onnx.data").read_bytes())
    for place in places:
        piece = np.frombuffer(content, np.uint8, place.length, place.offset)
        content[place.offset : place.offset + place.length] = (piece ^ 0x11).tobytes()
    (wrong.parent / "model.onnx.data").write_bytes(content)
    prepare(wrong, tmp_path / "model", precision="fp32")

    graph = EditedGraph(Export(right))
    logits = graph.proto.output[0]
    origin = read_origin(graph, find_head(graph, logits.name), logits).converted("fp32")
    trial = Trial.of(graph, logits.name, origin, (YES, NO), converted=True)
    with pytest.raises(ModelError, match="after mending, its logits differ by"):
        trial.compare(tmp_path / "model" / "model.onnx")
