"""Weights become the integers that kernels take, and products are what they should be."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from onnxruntime.capi import _pybind_state
from safetensors.numpy import save_file

from shardrank.graph.block_linear import BlockLinear
from shardrank.graph.linear import Linear
from shardrank.graph.quantize import quantize_blocks, quantize_rows
from shardrank.graph.token_linear import TokenLinear
from shardrank.graph.weights import Checkpoint
from shardrank.graph.writer import GraphWriter, Tensor

SHAPES = [(96, 64), (32, 48), (7, 33), (256, 1024)]
floats = st.floats(-100, 100, width=32) | st.floats(-(2**-120), 2**-120, width=32)


def random_weights(shape: tuple[int, int], seed: int = 0) -> np.ndarray:
    """With a row of zeros, and values on a coarse grid, where halves are met."""
    weights = np.random.default_rng(seed).standard_normal(shape).astype(np.float32)
    weights[0] = 0
    weights[1::2] = np.round(weights[1::2] * 16) / 16
    return weights


@given(arrays(np.float32, (4, 20), elements=floats))
def test_rows_come_back_to_half_a_step(rows: np.ndarray) -> None:
    integers, scales = quantize_rows(rows)
    assert integers.dtype == np.int8
    assert np.abs(integers.astype(int)).max() <= 127
    error = np.abs(integers * scales[:, None].astype(np.float64) - rows)
    assert (error <= scales[:, None] * 0.5001).all()


@given(arrays(np.float32, (4, 20), elements=floats), st.sampled_from([4, 8]))
def test_blocks_are_finite_and_near(rows: np.ndarray, bits: int) -> None:
    error = np.abs(dequantized(rows, bits, 16) - rows)
    assert (error <= np.abs(rows).max() / (1 << (bits - 1)) * 1.001 + 1e-28).all()


def test_halves_of_a_row_are_rounded_to_even() -> None:
    integers, scales = quantize_rows(np.array([[127, 0.5, 1.5, -0.5, -2.5]], np.float32))
    assert (integers.tolist(), scales.tolist()) == ([[127, 0, 2, 0, -2]], [1])


def test_a_row_of_zeros_stays_zeros() -> None:
    integers, scales = quantize_rows(np.zeros((2, 3), np.float32))
    assert not integers.any()
    assert (scales > 0).all()


@pytest.mark.parametrize("bits", [4, 8])
@pytest.mark.parametrize("block_size", [16, 32, 128])
@pytest.mark.parametrize("shape", SHAPES)
def test_blocks_are_those_of_onnxruntime(
    shape: tuple[int, int], block_size: int, bits: int
) -> None:
    # What onnxruntime.quantization calls, which itself needs onnx-ir to be imported.
    quantize = getattr(_pybind_state, f"quantize_matmul_{bits}bits")
    num_outputs, num_inputs = shape
    num_blocks = -(-num_inputs // block_size)
    integers = np.zeros((num_outputs, num_blocks, block_size * bits // 8), np.uint8)
    scales = np.zeros((num_outputs, num_blocks), np.float32)
    zero_points = np.zeros((num_outputs, -(-num_blocks * bits // 8)), np.uint8)
    weights = random_weights(shape)
    # A block's unused places become zeros, as ours do, if they are inputs of their own.
    padded = np.zeros((num_blocks * block_size, num_outputs), np.float32)
    padded[:num_inputs] = weights.T
    quantize(integers, padded, scales, zero_points, block_size, num_outputs, len(padded), True)
    found_integers, found_scales = quantize_blocks(weights, bits, block_size)
    np.testing.assert_array_equal(found_integers, integers)
    np.testing.assert_array_equal(found_scales, scales)


def dequantized(weights: np.ndarray, bits: int, block_size: int) -> np.ndarray:
    integers, scales = quantize_blocks(weights, bits, block_size)
    if bits == 4:
        integers = np.stack([integers & 15, integers >> 4], axis=-1).reshape(*scales.shape, -1)
    values = (integers.astype(np.float32) - (1 << (bits - 1))) * scales[:, :, None]
    return values.reshape(len(weights), -1)[:, : weights.shape[1]]


@pytest.mark.parametrize(("bits", "steps"), [(4, 16), (8, 256)])
def test_blocks_come_back_to_one_step(bits: int, steps: int) -> None:
    weights = random_weights((32, 48))
    error = np.abs(dequantized(weights, bits, 16) - weights).reshape(32, 3, 16).max(axis=2)
    largest = np.abs(weights).reshape(32, 3, 16).max(axis=2)
    # The side that is not the largest loses up to a whole step at its end.
    assert (error <= 2 * largest / steps * 1.001).all()


class OneProduct:
    """A graph of a single product with random weights, float32 [rows, inputs] in and out."""

    def __init__(self, folder: Path, weights: np.ndarray, bits: int | None) -> None:
        save_file({"a.weight": weights}, folder / "model.safetensors")
        (folder / "config.json").write_text("{}")
        checkpoint = Checkpoint(folder)
        with GraphWriter(folder, external=False) as writer:
            linear: Linear
            if bits is None:
                linear = TokenLinear(writer, checkpoint)
            else:
                linear = BlockLinear(writer, checkpoint, bits, 32)
            (output,) = linear.apply("values", ["a"])
            writer.save(
                [Tensor("values", ("rows", "inputs"), np.float32)],
                [Tensor(output, ("rows", len(weights)), np.float32)],
            )
        model = onnx.load(folder / "model.onnx")
        self._session = onnxruntime.InferenceSession(model.SerializeToString())

    def run(self, values: np.ndarray) -> np.ndarray:
        product: np.ndarray = self._session.run(None, {"values": values})[0]
        return product


def random_values(num_rows: int, num_inputs: int) -> np.ndarray:
    """Tokens of very different sizes, one of them nothing but zeros."""
    random = np.random.default_rng(1)
    values = random.standard_normal((num_rows, num_inputs)).astype(np.float32)
    values *= np.float32(10) ** random.integers(-6, 4, (num_rows, 1)).astype(np.float32)
    values[num_rows // 2] = 0
    return values


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("num_rows", [1, 2, 33])
def test_w8a8_is_an_integer_product_with_two_scales(
    tmp_path: Path, shape: tuple[int, int], num_rows: int
) -> None:
    weights, values = random_weights(shape), random_values(num_rows, shape[1])
    scales = np.maximum(np.abs(values).max(axis=1, keepdims=True) / np.float32(127), 1e-30)
    integers, weight_scales = quantize_rows(weights)
    product = np.rint(values / scales).astype(np.int64) @ integers.astype(np.int64).T
    expected = product.astype(np.float32) * weight_scales * scales
    np.testing.assert_array_equal(OneProduct(tmp_path, weights, None).run(values), expected)


@pytest.mark.parametrize("bits", [4, 8])
@pytest.mark.parametrize("shape", SHAPES)
def test_blocks_multiply_as_their_weights_say(
    tmp_path: Path, shape: tuple[int, int], bits: int
) -> None:
    weights, values = random_weights(shape), random_values(9, shape[1])
    expected = values @ dequantized(weights, bits, 32).T
    found = OneProduct(tmp_path, weights, bits).run(values)
    # The kernel rounds the activations of each block to 8 bits.
    size = np.abs(values).max(axis=1, keepdims=True) * np.abs(weights).max()
    assert (np.abs(found - expected) <= 0.01 * size * np.sqrt(shape[1]) + 1e-12).all()
