"""The head of a language model, found behind its logits and cut to two columns."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray

from shardrank.errors import ModelError
from shardrank.graph.cache import NUM_LOGITS
from shardrank.graph.edited import EditedGraph, attributes_of, set_attribute

# Products with the head's weight, which is input 1 of each.
_LINEAR = (
    "MatMul", "Gemm", "FusedMatMul", "MatMulNBits", "MatMulInteger", "MatMulIntegerToFloat",
    "DynamicQuantizeMatMul",
)  # fmt: skip
# Number by number, so they work on two columns as on all.
_ELEMENTWISE = ("Add", "Sub", "Mul", "Div")
_PASSING = ("Identity", "Cast")
# Choose or rearrange tokens, which the gather of the last token makes needless.
_SELECTING = ("Gather", "Slice", "Squeeze", "Unsqueeze", "Reshape")
_QUANTIZE = "DynamicQuantizeLinear"
_FAR = 2**31 - 1


@dataclass(frozen=True, slots=True)
class Head:
    """Where the logits come from.

    logits: their name. linear: the product with the head's weight.
    vocabulary_size: number of logits of a token.
    """

    logits: str
    linear: onnx.NodeProto
    vocabulary_size: int


def find_head(graph: EditedGraph, logits: str) -> Head:
    """Walk back from the logits to the product that makes them.

    Raises ModelError, naming the node, if something else is met on the way or if the product's
    weight is not fixed.
    """
    linear = _find_linear(graph, logits)
    if linear is None:
        node = _first_unknown(graph, logits)
        found = f"node {node.name!r} ({node.op_type})" if node else "an input of the graph"
        raise ModelError(
            f"{graph.export.path}: the logits come from {found}, behind which no head was found "
            f"(known: {', '.join(_LINEAR)}); give the plain export of a causal language model."
        )
    return Head(logits, linear, _vocabulary_size(graph, linear))


@dataclass(frozen=True, slots=True)
class HeadCut:
    """Builds the head anew for one token of each row and for two columns of the vocabulary.

    ids: the columns that are kept, in their order.
    last: name of the place of each row's last token, int64 [batch, 1].
    keeps_scale: with dynamic quantization, take the last token behind its DynamicQuantizeLinear,
        whose scale stays that of the whole batch, so that a row alone gets the export's own
        numbers bit for bit.

    Weights are copied, never changed: a tied embedding reads the same ones. The last token is
    taken right before the product.
    """

    graph: EditedGraph
    head: Head
    ids: tuple[int, int]
    last: str
    keeps_scale: bool = True
    _renamed: dict[str, str] = field(default_factory=dict)

    def apply(self) -> str:
        """Add the new head's nodes; returns the logits' name, [batch, 2] in the export's type."""
        return self._columns(self.head.logits)

    def _columns(self, name: str) -> str:
        """The two columns of a value that has one for each token of the vocabulary."""
        node = self.graph.producer(name)
        assert node is not None
        if node.op_type in _LINEAR:
            return self._product(node)
        if node.op_type in _SELECTING:
            self._refuse_other_tokens(node)
            return self._columns(node.input[0])
        # The columns come first: sides may read what they rename.
        inputs = {
            each: self._columns(each) for each in node.input if _find_linear(self.graph, each)
        }
        inputs |= {each: self._side(each, node) for each in node.input if each not in inputs}
        made = self.graph.copy(node, [inputs[each] for each in node.input], "head.columns")
        return str(made.output[0])

    def _product(self, node: onnx.NodeProto) -> str:
        tokens = self._tokens(node.input[0])
        attributes = attributes_of(node)
        if any(attributes.get(name) for name in ("transA", "transBatchA", "transBatchB")):
            raise self._refusal(node, "transposes its values, which is not known of a head")
        if node.op_type == "MatMulNBits":
            # Weight, scales, zero points and bias have a row for each column, g_idx (4) does not.
            rows = [
                name if place == 4 or not name else self._pick_rows(name, node)
                for place, name in enumerate(node.input[1:], start=1)
            ]
        else:
            axis = 0 if attributes.get("transB") else 1
            matrix = self._constant(node.input[1], node)
            weight = self.graph.weight("head.weight", np.take(matrix, self.ids, axis))
            rows = [weight, *(self._side(name, node) if name else "" for name in node.input[2:])]
        made = self.graph.copy(node, [tokens, *rows], "head.product")
        if node.op_type == "MatMulNBits":
            set_attribute(made, "N", len(self.ids))
        return str(made.output[0])

    def _tokens(self, name: str) -> str:
        """The last token of each row, [batch, n], of a value [batch, width, n]."""
        node = self.graph.producer(name)
        if node is not None and node.op_type in _SELECTING:
            self._refuse_other_tokens(node)
            return self._tokens(node.input[0])
        if node is not None and node.op_type in _PASSING:
            return str(self.graph.copy(node, [self._tokens(node.input[0])], "head.cast").output[0])
        if node is not None and node.op_type == _QUANTIZE and self._is_before(node):
            made = self.graph.copy(node, [self._tokens(node.input[0])], "head.quantized")
            self._renamed.update(zip(node.output, made.output, strict=True))
            return str(made.output[0])
        return self.graph.node("GatherND", [name, self.last], "head.last_token", batch_dims=1)

    def _is_before(self, quantizer: onnx.NodeProto) -> bool:
        """Whether tokens are taken before they are quantized."""
        node = self.graph.producer(quantizer.input[0])
        return not self.keeps_scale or (node is not None and node.op_type in _SELECTING)

    def _side(self, name: str, node: onnx.NodeProto) -> str:
        """A bias, scale or zero point, cut where it has one number for each column."""
        values = self.graph.constant(name)
        if values is not None:
            return self.graph.weight("head.side", self._pick_last(values, node))
        maker = self.graph.producer(name)
        if maker is not None and maker.op_type == _QUANTIZE:
            return self._renamed.get(name, name)
        if maker is not None and maker.op_type in (*_ELEMENTWISE, *_PASSING):
            inputs = [self._side(each, maker) for each in maker.input]
            return str(self.graph.copy(maker, inputs, "head.side").output[0])
        raise self._refusal(node, f"reads {name}, which is neither fixed nor a scale of the values")

    def _pick_last(self, values: NDArray[Any], node: onnx.NodeProto) -> NDArray[Any]:
        if values.size == 1:
            return values.reshape(())
        if values.size == values.shape[-1] == self.head.vocabulary_size:
            return values.reshape(-1)[list(self.ids)]
        raise self._refusal(
            node,
            f"reads a weight of shape {list(values.shape)}, where 1 or "
            f"{self.head.vocabulary_size} numbers are known",
        )

    def _pick_rows(self, name: str, node: onnx.NodeProto) -> str:
        """Rows of a weight [columns, ...], which older exporters wrote flat."""
        values = self._constant(name, node)
        rows = values.reshape(self.head.vocabulary_size, -1)[list(self.ids)]
        shape = (-1,) if values.ndim == 1 else (len(self.ids), *values.shape[1:])
        return self.graph.weight("head.weight", rows.reshape(shape))

    def _constant(self, name: str, node: onnx.NodeProto) -> NDArray[Any]:
        values = self.graph.constant(name)
        if values is None:
            raise _not_fixed(self.graph, name, node)
        return values

    def _refuse_other_tokens(self, node: onnx.NodeProto) -> None:
        """Whatever it keeps must include each row's last token."""
        if node.op_type == "Gather":
            index = self.graph.constant(node.input[1])
            axis = attributes_of(node).get("axis", 0)
            if axis not in (1, -2) or index is None or index.size != 1 or index.item() != -1:
                raise self._refusal(node, "takes tokens other than the last")
        if node.op_type == "Slice":
            start, stop, axes = (self.graph.constant(each) for each in node.input[1:4])
            given = {value.name for value in self.graph.inputs}
            # The number of logits to keep is supplied as 0, which is all.
            asked = start is None and bool(given.intersection(NUM_LOGITS))
            starts_well = asked or _is_one_of(start, (0, -1))
            if not (starts_well and _is_one_of(axes, (1, -2)) and _at_least(stop, _FAR)):
                raise self._refusal(node, "takes tokens other than the last")

    def _refusal(self, node: onnx.NodeProto, what: str) -> ModelError:
        return ModelError(
            f"{self.graph.export.path}: node {node.name!r} ({node.op_type}) of the head {what}; "
            f"give the plain export of a causal language model."
        )


def _find_linear(graph: EditedGraph, name: str) -> onnx.NodeProto | None:
    """The head's product behind a value, through operators that keep columns apart."""
    node = graph.producer(name)
    if node is None or node.op_type in _LINEAR:
        return node
    if node.op_type in (*_PASSING, *_SELECTING):
        return _find_linear(graph, node.input[0])
    if node.op_type in _ELEMENTWISE:
        found = [_find_linear(graph, each) for each in node.input]
        return next((each for each in found if each is not None), None)
    return None


def _first_unknown(graph: EditedGraph, name: str) -> onnx.NodeProto | None:
    node = graph.producer(name)
    while node is not None and node.op_type in (*_PASSING, *_SELECTING, *_ELEMENTWISE):
        node = graph.producer(node.input[0])
    return node


def _vocabulary_size(graph: EditedGraph, node: onnx.NodeProto) -> int:
    attributes = attributes_of(node)
    if node.op_type == "MatMulNBits":
        return int(attributes["N"])
    matrix = graph.constant(node.input[1])
    if matrix is None or matrix.ndim != 2:
        raise _not_fixed(graph, node.input[1], node)
    return int(matrix.shape[0 if attributes.get("transB") else 1])


def _not_fixed(graph: EditedGraph, name: str, node: onnx.NodeProto) -> ModelError:
    maker = graph.producer(name)
    found = f"made by {maker.op_type} (node {maker.name!r})" if maker else "an input of the graph"
    return ModelError(
        f"{graph.export.path}: node {node.name!r} ({node.op_type}) should be the head, and its "
        f"weight {name} is {found}, not a fixed matrix; give an export whose head is a fixed "
        f"matrix."
    )


def _is_one_of(values: NDArray[Any] | None, known: Sequence[int]) -> bool:
    return values is not None and values.size == 1 and values.item() in known


def _at_least(values: NDArray[Any] | None, bound: int) -> bool:
    return values is not None and values.size == 1 and values.item() >= bound
