"""A matrix product of an export with a fixed matrix, however the export stores the matrix."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray

from shardrank.graph.dequantize import dequantize_blocks, dequantize_columns
from shardrank.graph.edited import EditedGraph, attributes_of
from shardrank.types import Float32Array


@dataclass(frozen=True, slots=True)
class FloatMatrix:
    """A matrix of float32, [inputs, outputs]; name: of the value."""

    graph: EditedGraph
    name: str
    shape: tuple[int, int]

    def values(self) -> Float32Array:
        """float32 [inputs, outputs]."""
        return _constant(self.graph, self.name)


@dataclass(frozen=True, slots=True)
class BlockMatrix:
    """A matrix of com.microsoft.MatMulNBits; node: the product, whose inputs 1 to 3 it is."""

    graph: EditedGraph
    node: onnx.NodeProto
    shape: tuple[int, int]

    def values(self) -> Float32Array:
        """float32 [inputs, outputs], as the operator's documentation defines it."""
        attributes = attributes_of(self.node)
        blocks, scales = (_constant(self.graph, name) for name in self.node.input[1:3])
        block_size, bits = attributes["block_size"], attributes.get("bits", 4)
        has_points = len(self.node.input) > 3 and self.node.input[3]
        inputs, outputs = self.shape
        return dequantize_blocks(
            blocks.reshape(outputs, -(-inputs // block_size), block_size * bits // 8),
            scales,
            _constant(self.graph, self.node.input[3]) if has_points else None,
            bits,
            inputs,
        )


@dataclass(frozen=True, slots=True)
class IntegerMatrix:
    """A matrix of 8-bit integers, [inputs, outputs]; name: of the integers.

    scales: float32, [1] or [outputs]. zero_points: of the integers' type, the same shapes; None
        where all are 0.
    """

    graph: EditedGraph
    name: str
    shape: tuple[int, int]
    scales: Float32Array
    zero_points: NDArray[Any] | None

    def values(self) -> Float32Array:
        """float32 [inputs, outputs]."""
        return dequantize_columns(_constant(self.graph, self.name), self.scales, self.zero_points)


Matrix = FloatMatrix | BlockMatrix | IntegerMatrix


@dataclass(frozen=True, slots=True)
class Product:
    """values x matrix + bias, with every node that an export needs for it.

    values: float32 [..., inputs], before any quantization. bias: its name; empty for none.
    node: the one whose first output is the product, float32 [..., outputs].
    quantizer: the first node that reads the values for this product, and for others of the same
        values where their quantization is shared.
    """

    values: str
    matrix: Matrix
    bias: str
    node: onnx.NodeProto
    quantizer: onnx.NodeProto


def _constant(graph: EditedGraph, name: str) -> NDArray[Any]:
    values = graph.constant(name)
    assert values is not None, name
    return np.asarray(values)
