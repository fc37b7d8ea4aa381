"""Weights come back from small integers as the operators' own kernels see them."""

from __future__ import annotations

import numpy as np
import onnxruntime
import pytest
from hypothesis import given
from hypothesis import strategies as st
from onnx import TensorProto, helper, numpy_helper

from heads import microsoft, node
from shardrank.graph.dequantize import dequantize_blocks, dequantize_columns


def run(
    nodes: list, weights: dict[str, np.ndarray], values: np.ndarray | None = None
) -> np.ndarray:
    """The output `y` of a graph of the input `x`."""
    feeds = {} if values is None else {"x": values}
    graph = helper.make_graph(
        nodes,
        "one product",
        [helper.make_tensor_value_info(name, TensorProto.FLOAT, None) for name in feeds],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, None)],
        initializer=[numpy_helper.from_array(each, name) for name, each in weights.items()],
    )
    opsets = [helper.make_opsetid("", 21), helper.make_opsetid("com.microsoft", 1)]
    model = helper.make_model(graph, opset_imports=opsets, ir_version=10)
    return onnxruntime.InferenceSession(model.SerializeToString()).run(["y"], feeds)[0]


def random_blocks(
    outputs: int, num_blocks: int, block_size: int, bits: int, points: str
) -> tuple[np.ndarray, np.ndarray, np.ndarray | None]:
    random = np.random.default_rng(num_blocks)
    blocks = random.integers(0, 256, (outputs, num_blocks, block_size * bits // 8), np.uint8)
    scales = random.uniform(-1, 1, (outputs, num_blocks)).astype(np.float32)
    zero_points = {
        "none": None,
        "packed": random.integers(0, 256, (outputs, -(-num_blocks * bits // 8)), np.uint8),
        "float": random.uniform(0, 9, (outputs, num_blocks)).astype(np.float32),
    }[points]
    return blocks, scales, zero_points


# There is no kernel for 8 bits with float zero points on a CPU.
@pytest.mark.parametrize(
    ("bits", "points"),
    [
        (2, "none"),
        (2, "packed"),
        (4, "none"),
        (4, "packed"),
        (4, "float"),
        (8, "none"),
        (8, "packed"),
    ],
)
@pytest.mark.parametrize(("num_inputs", "block_size"), [(64, 32), (40, 16), (96, 64), (33, 128)])
def test_blocks_are_what_the_kernel_multiplies_by(
    num_inputs: int, block_size: int, bits: int, points: str
) -> None:
    """The product with the unit matrix, in floats (accuracy level 0), is the weight itself."""
    parts = random_blocks(5, -(-num_inputs // block_size), block_size, bits, points)
    weights = dict(zip("wsz", parts, strict=True))
    weights = {name: each for name, each in weights.items() if each is not None}
    made = microsoft(
        "MatMulNBits", f"x w s {'z' if 'z' in weights else '-'}", "y", K=num_inputs, N=5,
        bits=bits, block_size=block_size,
    )  # fmt: skip
    expected = run([made], weights, np.eye(num_inputs, dtype=np.float32))
    found = dequantize_blocks(*parts, bits, num_inputs)
    # A zero point that is no integer is multiplied by the scale apart, which rounds once more.
    np.testing.assert_allclose(found, expected, rtol=0, atol=2e-6 if points == "float" else 0)


@given(
    outputs=st.integers(1, 3),
    num_blocks=st.integers(1, 3),
    bits=st.sampled_from([2, 4, 8]),
    points=st.sampled_from(["none", "packed", "float"]),
    flat=st.booleans(),
    missing=st.integers(0, 15),
)
def test_every_integer_has_its_place(
    outputs: int, num_blocks: int, bits: int, points: str, flat: bool, missing: int
) -> None:
    """Number by number, as the documentation of MatMulNBits says; the last block may be cut."""
    blocks, scales, zero_points = random_blocks(outputs, num_blocks, 16, bits, points)
    num_inputs = num_blocks * 16 - missing

    def field(row: np.ndarray, place: int) -> int:
        packed = int(row.reshape(-1)[place * bits // 8])
        return packed >> (place * bits % 8) & ((1 << bits) - 1)

    expected = np.zeros((num_inputs, outputs), np.float32)
    for output in range(outputs):
        for place in range(num_inputs):
            block = place // 16
            point = np.float32(1 << (bits - 1))
            if points == "float":
                point = zero_points[output, block]
            if points == "packed":
                point = np.float32(field(zero_points[output], block))
            integer = np.float32(field(blocks[output], place))
            expected[place, output] = (integer - point) * scales[output, block]
    if flat:
        scales = scales.reshape(-1)
        zero_points = None if zero_points is None else zero_points.reshape(-1)
    found = dequantize_blocks(blocks, scales, zero_points, bits, num_inputs)
    np.testing.assert_array_equal(found, expected)


@pytest.mark.parametrize("dtype", [np.int8, np.uint8])
@pytest.mark.parametrize("count", [1, 6])
def test_columns_are_what_dequantize_linear_gives(dtype: type, count: int) -> None:
    random = np.random.default_rng(count)
    limits = np.iinfo(dtype)
    integers = random.integers(limits.min, limits.max + 1, (9, 6)).astype(dtype)
    points = random.integers(limits.min, limits.max + 1, count).astype(dtype)
    scales = random.uniform(0.01, 1, count).astype(np.float32)
    weights = {"w": integers, "s": scales, "z": points}
    if count == 1:
        weights |= {"s": scales[0], "z": points[0]}
    expected = run([node("DequantizeLinear", "w s z", "y", axis=1)], weights)
    np.testing.assert_array_equal(dequantize_columns(integers, scales, points), expected)
