"""W8A8: matrix products of 8-bit weights and 8-bit activations with a scale for every token."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from shardrank.graph.linear import PlainProducts
from shardrank.graph.quantize import LARGEST_INT8, SMALLEST_SCALE, quantize_rows
from shardrank.graph.rotation import append_rotation, rotate_weights, rotation_size
from shardrank.graph.weights import Checkpoint
from shardrank.graph.writer import MICROSOFT, GraphWriter

_ZERO_POINT = 128


@dataclass(frozen=True, slots=True)
class TokenLinear(PlainProducts):
    """Weights as int8 with a scale for every output, activations as uint8 with one for every token.

    A token's scale is a function of that token alone and integers add up exactly in any order, so
    a product never depends on the other rows. Dynamic quantization with one scale for the whole
    batch, which model_quantized.onnx has, moves scores by up to 0.5 of their standard deviation.

    QuantizeLinear takes a scale for each row of a matrix; MatMulIntegerToFloat does not, and gets
    a scale of 1. Where rotation.rotation_size says so, channels are rotated in blocks before.
    """

    writer: GraphWriter
    checkpoint: Checkpoint

    def __post_init__(self) -> None:
        """Write what all products share."""
        self.writer.constant("token.levels", np.array(LARGEST_INT8, np.float32))
        self.writer.constant("token.smallest_scale", np.array(SMALLEST_SCALE, np.float32))
        self.writer.constant("token.one", np.array(1, np.float32))
        self.writer.constant("token.zero_point", np.array(_ZERO_POINT, np.uint8))
        self.writer.constant("token.zero_points", np.array([_ZERO_POINT], np.uint8))
        self.writer.constant("token.axis", np.array([-1], np.int64))

    def apply(self, values: str, names: Sequence[str]) -> list[str]:
        """Quantize the values, float32 [tokens, inputs], once, and multiply them by each weight."""
        size = self._rotation_size(names[0])
        rotated = append_rotation(self.writer.node, self.writer.constant, values, size)
        integers, scales = self._quantize(rotated)
        products = [self._multiply(integers, name, f"{name}.product") for name in names]
        return [
            self.writer.node("Mul", [product, scales], name)
            for product, name in zip(products, names, strict=True)
        ]

    def _quantize(self, values: str) -> tuple[str, str]:
        """uint8 [tokens, inputs], and the tokens' scales as float32 [tokens, 1]."""
        node = self.writer.node
        absolute = node("Abs", [values], f"{values}.absolute")
        largest = node("ReduceMax", [absolute, "token.axis"], f"{values}.largest", keepdims=1)
        divided = node("Div", [largest, "token.levels"], f"{values}.divided")
        scales = node("Max", [divided, "token.smallest_scale"], f"{values}.scales")
        flat = node("Reshape", [scales, "token.axis"], f"{values}.flat_scales")
        num_tokens = node("Shape", [flat], f"{values}.num_tokens")
        zero_points = node("Expand", ["token.zero_points", num_tokens], f"{values}.zero_points")
        integers = node("QuantizeLinear", [values, flat, zero_points], f"{values}.integers", axis=0)
        return integers, scales

    def _rotation_size(self, name: str) -> int:
        return rotation_size(name, self.checkpoint.shape(f"{name}.weight")[1])

    def _multiply(self, integers: str, name: str, product: str) -> str:
        outputs, inputs = self.checkpoint.shape(f"{name}.weight")
        rows, weight_scales = quantize_rows(
            rotate_weights(self.checkpoint.read(f"{name}.weight"), self._rotation_size(name))
        )
        weight = self.writer.weight(f"{name}.weight", (inputs, outputs), [rows.T], dtype=np.int8)
        return self.writer.node(
            "MatMulIntegerToFloat",
            [integers, weight, "token.one",
             self.writer.constant(f"{name}.scales", weight_scales), "token.zero_point"],
            product,
            domain=MICROSOFT,
        )  # fmt: skip
