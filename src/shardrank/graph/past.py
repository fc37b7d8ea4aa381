"""The layout `prefix` of an export: its past stays an input, its present an output."""

from __future__ import annotations

import onnx
from onnx import TensorProto, helper

from shardrank.engine.layouts import past_names, present_names
from shardrank.errors import ModelError
from shardrank.graph.cache import is_past
from shardrank.graph.edited import EditedGraph, attributes_of
from shardrank.graph.origin import Origin
from shardrank.graph.rows import Rows

_ATTENTION = "GroupQueryAttention"
# Places among its inputs and outputs: keys, and values.
_PAST_PLACES = (3, 4)
_PRESENT_PLACES = (1, 2)
_LAST_SEEN_PLACE, _NUM_SEEN_PLACE = 5, 6
# Inputs that would have to follow the past, or that count a row's tokens once more.
_UNKNOWN_PLACES = {10: "attention_bias", 16: "query_seqlens"}


class ExportPast:
    """The caches of an export's layers, made to be what engine.layouts names.

    Only GroupQueryAttention continues a past so that a score with a prefix is the score without,
    bit for bit: unfused attention multiplies matrices of other sizes then, which rounds otherwise.

    Raises ModelError if the layout cannot be: other attention, no past inputs, or numbers that
    depend on the batch.
    """

    def __init__(self, graph: EditedGraph, origin: Origin) -> None:
        self._graph = graph
        self._layers = [node for node in graph.nodes if node.op_type == _ATTENTION]
        self._kinds = {
            value.name: value.type.tensor_type.elem_type for value in graph.inputs if is_past(value)
        }
        self._head_size = origin.architecture.get("head_size")
        if origin.dynamic:
            raise ModelError(
                f"{graph.export.path} quantizes a batch with one scale, so a prompt's score with a "
                f"prefix would not be the one without it; choose --precision w8a8, which converts "
                f"it, or --layout padded."
            )
        if not self._layers:
            raise self._refusal(f"has no {_ATTENTION}, and other attention rounds otherwise then")
        if self._head_size is None:
            raise self._refusal("does not say how large its heads are")
        for node in self._layers:
            self._refuse_unknown(node)
        # All of a GroupQueryAttention's values, and so of the graph's, have one type.
        self._kind = self._kinds[self._layers[0].input[_PAST_PLACES[0]]]
        used = {node.input[place] for node in self._layers for place in _PAST_PLACES}
        if used != self._kinds.keys():
            raise self._refusal("has past inputs that do not belong to its layers one by one")

    def connect(self, rows: Rows) -> list[onnx.ValueInfoProto]:
        """Name inputs and outputs, float32 each, and let attention count the past.

        Returns the presents, for EditedGraph.finish.
        """
        graph = self._graph
        for layer, node in enumerate(self._layers):
            node.input[_LAST_SEEN_PLACE] = rows.last_seen
            node.input[_NUM_SEEN_PLACE] = rows.num_seen
            for name in (*past_names(layer), *present_names(layer)):
                graph.free_name(name)
        for name in self._kinds:
            graph.drop_input(name)
        # At once: old names and new ones may be the same in another order.
        graph.rename_all(
            {
                node.input[place]: self._past(name, node)
                for layer, node in enumerate(self._layers)
                for place, name in zip(_PAST_PLACES, past_names(layer), strict=True)
            }
        )
        return [
            self._present(name, node, place)
            for layer, node in enumerate(self._layers)
            for place, name in zip(_PRESENT_PLACES, present_names(layer), strict=True)
        ]

    def _past(self, name: str, node: onnx.NodeProto) -> str:
        """Add the input; returns the same in the export's type."""
        self._graph.add_input(self._describe(name, node, "past"))
        if self._kind == TensorProto.FLOAT:
            return name
        return self._graph.node("Cast", [name], f"{name}.cast", front=True, to=self._kind)

    def _present(self, name: str, node: onnx.NodeProto, place: int) -> onnx.ValueInfoProto:
        """Make the output; a narrower type keeps its values as float32."""
        while len(node.output) <= place:
            node.output.append("")
        old = node.output[place]
        if self._kind == TensorProto.FLOAT:
            node.output[place] = name
            self._graph.rename_all({old: name} if old else {})
        else:
            node.output[place] = old = old or f"{name}.own"
            self._graph.node("Cast", [old], f"{name}.cast", output=name, to=TensorProto.FLOAT)
        return self._describe(name, node, "seen")

    def _describe(self, name: str, node: onnx.NodeProto, length: str) -> onnx.ValueInfoProto:
        num_heads = attributes_of(node)["kv_num_heads"]
        shape = ["batch", num_heads, length, self._head_size]
        return helper.make_tensor_value_info(name, TensorProto.FLOAT, shape)

    def _refuse_unknown(self, node: onnx.NodeProto) -> None:
        for place in _PAST_PLACES:
            if node.input[place] not in self._kinds:
                raise self._refusal(f"has no past inputs (node {node.name!r} reads none)")
        for place, name in _UNKNOWN_PLACES.items():
            if place < len(node.input) and node.input[place]:
                raise self._refusal(f"gives node {node.name!r} an input {name}, not known then")

    def _refusal(self, what: str) -> ModelError:
        return ModelError(
            f"{self._graph.export.path} {what}, so it cannot have the layout prefix; choose "
            f"--layout padded, or prepare the checkpoint."
        )
