"""Finds the matrix products of an export, and refuses those that it cannot read to the letter."""

from __future__ import annotations

from collections import defaultdict
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import TensorProto

from shardrank.errors import ModelError
from shardrank.graph.edited import EditedGraph, attributes_of
from shardrank.graph.export import nodes_of
from shardrank.graph.product import BlockMatrix, FloatMatrix, IntegerMatrix, Product

_DYNAMIC = "DynamicQuantizeLinear"
_BITS = (2, 4, 8)
# Inputs of MatMulIntegerToFloat and DynamicQuantizeMatMul: weight, its scale, zero point and bias.
_FUSED_PLACES = {"MatMulIntegerToFloat": (1, 3, 5, 6), "DynamicQuantizeMatMul": (1, 2, 3, 4)}


class ProductFinder:
    """Reads the products of a graph, node by node."""

    def __init__(self, graph: EditedGraph) -> None:
        self._graph = graph
        self._readers: dict[str, list[onnx.NodeProto]] = defaultdict(list)
        for node in nodes_of(graph.proto):
            for name in node.input:
                self._readers[name].append(node)

    def find(self) -> list[Product]:
        """Every product with a fixed matrix, in the order of the graph.

        Products of two computed values (attention without fusing) are none of them. Raises
        ModelError, naming the node, for a product whose matrix cannot be read.
        """
        products = [self._read(node) for node in self._graph.nodes]
        return [each for each in products if each is not None]

    def _read(self, node: onnx.NodeProto) -> Product | None:
        if node.op_type == "MatMul":
            return self._float_product(node)
        if node.op_type == "MatMulNBits":
            return self._block_product(node)
        if node.op_type == "MatMulInteger":
            return self._integer_product(node)
        if node.op_type in _FUSED_PLACES:
            return self._fused_product(node)
        return None

    def _float_product(self, node: onnx.NodeProto) -> Product | None:
        maker = self._graph.producer(node.input[1])
        if maker is not None and maker.op_type == "DequantizeLinear":
            raise self.refusal(node, "has a weight that DequantizeLinear makes, which is not read")
        matrix = self._graph.constant(node.input[1])
        if matrix is None or matrix.ndim != 2 or matrix.dtype != np.float32:
            return None
        found = FloatMatrix(self._graph, node.input[1], (matrix.shape[0], matrix.shape[1]))
        return Product(node.input[0], found, "", node, node)

    def _block_product(self, node: onnx.NodeProto) -> Product:
        attributes = attributes_of(node)
        bits = attributes.get("bits", 4)
        if bits not in _BITS:
            raise self.refusal(node, f"has weights of {bits} bits, where 2, 4 and 8 are known")
        if len(node.input) > 4 and node.input[4]:
            raise self.refusal(node, "takes its inputs in an order of their own (g_idx)")
        if attributes.get("weight_prepacked"):
            raise self.refusal(node, "has its weights packed for one kind of GPU")
        scales = self._fixed(node, 2)
        if scales.dtype != np.float32:
            raise self.refusal(node, f"works on {scales.dtype}, and so does the graph around it")
        for place in (1, 3):
            if len(node.input) > place and node.input[place]:
                self._fixed(node, place)
        matrix = BlockMatrix(self._graph, node, (attributes["K"], attributes["N"]))
        return Product(node.input[0], matrix, _input(node, 5), node, node)

    def _integer_product(self, node: onnx.NodeProto) -> Product:
        """DynamicQuantizeLinear, MatMulInteger, Cast, Mul by both scales (quantize_dynamic)."""
        quantizer = self._quantizer(node, node.input[0], _input(node, 2))
        cast = self._only_reader(node, "Cast")
        if attributes_of(cast)["to"] != TensorProto.FLOAT:
            raise self.refusal(node, "gives another type than float32")
        scaled = self._only_reader(cast, "Mul")
        scales = self._graph.producer(next(name for name in scaled.input if name != cast.output[0]))
        if scales is None or scales.op_type != "Mul" or quantizer.output[1] not in scales.input:
            raise self.refusal(node, "is not followed by a product of both scales")
        scale = next(name for name in scales.input if name != quantizer.output[1])
        matrix = self._integers(node, node.input[1], scale, _input(node, 3))
        return Product(quantizer.input[0], matrix, "", scaled, quantizer)

    def _fused_product(self, node: onnx.NodeProto) -> Product:
        """The same where onnxruntime's optimizer has fused it."""
        weight, scale, zero_point, bias = (
            _input(node, place) for place in _FUSED_PLACES[node.op_type]
        )
        matrix = self._integers(node, weight, scale, zero_point)
        if node.op_type == "DynamicQuantizeMatMul":
            return Product(node.input[0], matrix, bias, node, node)
        quantizer = self._quantizer(node, node.input[0], _input(node, 4))
        if node.input[2] != quantizer.output[1]:
            raise self.refusal(node, "takes a scale that is not of its values")
        return Product(quantizer.input[0], matrix, bias, node, quantizer)

    def _quantizer(self, node: onnx.NodeProto, values: str, zero_point: str) -> onnx.NodeProto:
        maker = self._graph.producer(values)
        if (
            maker is None
            or maker.op_type != _DYNAMIC
            or (values, zero_point) != (maker.output[0], maker.output[2])
        ):
            raise self.refusal(node, f"takes integers that no {_DYNAMIC} makes")
        return maker

    def _integers(
        self, node: onnx.NodeProto, weight: str, scale: str, zero_point: str
    ) -> IntegerMatrix:
        integers, scales = self._graph.constant(weight), self._graph.constant(scale)
        points = self._graph.constant(zero_point) if zero_point else np.zeros(1, np.int8)
        if integers is None or scales is None or points is None or integers.ndim != 2:
            raise self.refusal(node, "has no fixed matrix, or no fixed scale for it")
        known = (1, integers.shape[1])
        if scales.dtype != np.float32 or scales.size not in known or points.size not in known:
            raise self.refusal(
                node,
                f"has scales {scales.dtype} {list(scales.shape)} and zero points "
                f"{list(points.shape)}, where float32 and 1 or {known[1]} of both are known",
            )
        return IntegerMatrix(
            self._graph,
            weight,
            (integers.shape[0], integers.shape[1]),
            scales.reshape(-1),
            points.reshape(-1) if points.any() else None,
        )

    def _only_reader(self, node: onnx.NodeProto, operator: str) -> onnx.NodeProto:
        readers = self._readers[node.output[0]]
        if len(readers) != 1 or readers[0].op_type != operator:
            found = ", ".join(each.op_type for each in readers) or "nothing"
            raise self.refusal(node, f"is followed by {found}, where one {operator} is known")
        return readers[0]

    def _fixed(self, node: onnx.NodeProto, place: int) -> NDArray[Any]:
        values = self._graph.constant(node.input[place])
        if values is None:
            raise self.refusal(node, f"has no fixed {node.input[place]}")
        return values

    def refusal(self, node: onnx.NodeProto, what: str) -> ModelError:
        """The error for a product that cannot be converted."""
        return ModelError(
            f"{self._graph.export.path}: node {node.name!r} ({node.op_type}) {what}, so it cannot "
            f"be converted exactly; keep it with --precision as-is, or prepare the checkpoint."
        )


def _input(node: onnx.NodeProto, place: int) -> str:
    """An input that may be left out: its name, or nothing."""
    return node.input[place] if place < len(node.input) else ""
