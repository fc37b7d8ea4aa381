"""Another precision for the matrix products of an export, where that can be done to the letter."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from shardrank.errors import ModelError
from shardrank.graph.edited import EditedGraph
from shardrank.graph.product import BlockMatrix, FloatMatrix, IntegerMatrix, Product
from shardrank.graph.product_finder import ProductFinder
from shardrank.graph.quantize import LARGEST_INT8, SMALLEST_SCALE, Int8Array, quantize_rows
from shardrank.graph.rotation import append_rotation, block_size, rotate_weights
from shardrank.graph.writer import MICROSOFT
from shardrank.types import Float32Array

AS_IS = "as-is"

# By what an export holds. Weights become float32 exactly; 8-bit integers with a scale a column are
# w8a8's own; and float32 is rounded to them once, as from a checkpoint.
_CONVERSIONS = {
    "fp32": ("w8a8",),
    "blocks": ("fp32",),
    "dynamic-int8": ("w8a8", "fp32"),
}
_HALVES = ("fp16", "bf16")
# The head is cut to two columns, which cost nothing as floats (qwen3.Qwen3Graph).
_FEW_COLUMNS = 2
# As token_linear.TokenLinear has it.
_ZERO_POINT = 128
# The first in which ReduceMax takes its axes as an input.
_AXES_AS_INPUT = 18


def choose_conversion(export: Path, found: str, asked: str) -> str | None:
    """The precision to convert to; None where the export is kept as it is.

    found: of the export (origin.Origin). Raises ModelError where the weights would be rounded a
    second time, or more than the weights would have to change, with what to do instead.
    """
    if asked in (AS_IS, found):
        return None
    # Of MatMulNBits, by its bits: q4, q8.
    possible = _CONVERSIONS.get("blocks" if found.startswith("q") else found, ())
    if asked in possible:
        return asked
    if asked in _HALVES or found in _HALVES:
        reason = "every value of the graph would change its type, not the weights alone"
    elif found == "fp32":
        reason = "blocks of weights are made from a checkpoint"
    else:
        reason = "its weights would be rounded a second time"
    there_is = ", ".join((AS_IS, *possible))
    raise ModelError(
        f"{export} has the precision {found} and cannot become {asked}: {reason}; choose "
        f"--precision {there_is}, or prepare the checkpoint with --precision {asked}."
    )


class Conversion:
    """Writes the products of a mended graph anew.

    precision: "fp32" gives every product the float32 matrix that its integers stand for. "w8a8"
    keeps 8-bit integers, their scales and zero points, and quantizes values with a scale for every
    token (token_linear.TokenLinear) in place of one for the whole batch. Where it quantizes
    float32 matrices, it rotates what TokenLinear rotates: products of two computed values.
    quantizes: with w8a8, float32 matrices become integers too; else they stay, since whoever
        quantized the export left them out.
    """

    def __init__(self, graph: EditedGraph, precision: str, *, quantizes: bool) -> None:
        self._graph = graph
        self._precision = precision
        self._quantizes = quantizes
        self._finder = ProductFinder(graph)
        self._tokens: dict[str, tuple[str, str]] = {}
        # What is not needed in the end is dropped.
        self._levels = graph.weight("token.levels", np.array(LARGEST_INT8, np.float32))
        self._smallest = graph.weight("token.smallest_scale", np.array(SMALLEST_SCALE, np.float32))
        self._one = graph.weight("token.one", np.array(1, np.float32))
        self._zero_point = graph.weight("token.zero_point", np.array(_ZERO_POINT, np.uint8))
        self._axis = graph.weight("token.axis", np.array([-1], np.int64))

    def apply(self) -> None:
        """Convert every product; raises ModelError, naming the node, if one cannot be."""
        self._refuse_unknown_products()
        changed = [each for each in self._finder.find() if self._changes(each)]
        for product in changed:
            self._convert(product)
            self._graph.drop_node(product.node)
        if self._quantizes and not changed:
            raise ModelError(
                f"{self._graph.export.path} has no product with a fixed float32 matrix to "
                f"quantize; keep it with --precision as-is, or prepare the checkpoint."
            )
        self._graph.finish(self._graph.proto.output)
        for node in self._graph.proto.node:
            if node.op_type == "DynamicQuantizeLinear":
                raise self._finder.refusal(node, "is read by something that is no product")

    def _changes(self, product: Product) -> bool:
        if not isinstance(product.matrix, FloatMatrix):
            return True
        return self._quantizes and product.matrix.shape[1] > _FEW_COLUMNS

    def _convert(self, product: Product) -> None:
        graph, matrix, node = self._graph, product.matrix, product.node
        result = node.output[0]
        output = None if product.bias else result
        if self._precision == "fp32" or matrix.shape[1] <= _FEW_COLUMNS:
            weight = graph.computed_weight(
                f"{result}.matrix", matrix.shape, np.float32, matrix.values
            )
            made = graph.node(
                "MatMul", [product.values, weight], f"{result}.product", before=node, output=output
            )
        else:
            integers, scales = self._quantize(product)
            weight, weight_scales, zero_points = self._integers(product)
            whole = graph.node(
                "MatMulIntegerToFloat",
                [integers, weight, self._one, weight_scales, self._zero_point, zero_points],
                f"{result}.product",
                domain=MICROSOFT,
                before=node,
            )
            made = graph.node("Mul", [whole, scales], f"{result}.mul", before=node, output=output)
        if product.bias:
            graph.node("Add", [made, product.bias], f"{result}.add", before=node, output=result)

    def _rotation_size(self, product: Product) -> int:
        """As rotation_size has it, for a matrix that is not rounded yet; names say nothing here."""
        graph, maker = self._graph, self._graph.producer(product.values)
        if not isinstance(product.matrix, FloatMatrix) or maker is None or maker.op_type != "Mul":
            return 1
        if any(graph.constant(name) is not None for name in maker.input):
            return 1
        return block_size(product.matrix.shape[0])

    def _rotate(self, product: Product) -> str:
        def node(operator: str, inputs: Sequence[str], name: str) -> str:
            return self._graph.node(operator, inputs, name, before=product.quantizer)

        return append_rotation(
            node, self._graph.weight, product.values, self._rotation_size(product)
        )

    def _quantize(self, product: Product) -> tuple[str, str]:
        """Once for equal values: uint8 [..., inputs], and the tokens' scales, float32 [..., 1]."""
        if product.values not in self._tokens:
            graph, place = self._graph, product.quantizer
            values = self._rotate(product)
            absolute = graph.node("Abs", [values], f"{values}.absolute", before=place)
            by_input = graph.opset >= _AXES_AS_INPUT
            inputs = [absolute, self._axis] if by_input else [absolute]
            attributes: dict[str, Any] = {"keepdims": 1} | ({} if by_input else {"axes": [-1]})
            largest = graph.node(
                "ReduceMax", inputs, f"{values}.largest", before=place, **attributes
            )
            divided = graph.node("Div", [largest, self._levels], f"{values}.divided", before=place)
            scales = graph.node("Max", [divided, self._smallest], f"{values}.scales", before=place)
            scaled = graph.node("Div", [values, scales], f"{values}.scaled", before=place)
            integers = graph.node(
                "QuantizeLinear",
                [scaled, self._one, self._zero_point],
                f"{values}.integers",
                before=place,
            )
            self._tokens[product.values] = (integers, scales)
        return self._tokens[product.values]

    def _integers(self, product: Product) -> tuple[str, str, str]:
        """Names of the 8-bit weight, its scales, and its zero points (nothing where they are 0)."""
        graph, matrix, name = self._graph, product.matrix, product.node.output[0]
        if isinstance(matrix, IntegerMatrix):
            points = matrix.zero_points
            return (
                matrix.name,
                graph.weight(f"{name}.weight_scales", matrix.scales),
                "" if points is None else graph.weight(f"{name}.zero_points", points),
            )
        if isinstance(matrix, BlockMatrix):
            raise self._finder.refusal(
                product.node, "has a scale for every block, where w8a8 has one for every column"
            )
        # Twice the work for a fraction of the memory: values are made when they are written.
        inputs, outputs = matrix.shape
        size = self._rotation_size(product)

        def quantized() -> tuple[Int8Array, Float32Array]:
            return quantize_rows(rotate_weights(matrix.values().T, size))

        weight = graph.computed_weight(
            f"{name}.integers", (inputs, outputs), np.int8, lambda: quantized()[0].T
        )
        scales = graph.computed_weight(
            f"{name}.weight_scales", (outputs,), np.float32, lambda: quantized()[1]
        )
        return weight, scales, ""

    def _refuse_unknown_products(self) -> None:
        """Fixed matrices that quantizing would pass over."""
        for node in self._graph.nodes if self._quantizes else ():
            if node.op_type in ("Gemm", "FusedMatMul"):
                matrix = self._graph.constant(node.input[1])
                if matrix is not None and min(matrix.shape) > _FEW_COLUMNS:
                    raise self._finder.refusal(node, "is no plain MatMul")
