"""The inputs of an export besides ids and mask: an empty cache, positions, how many logits."""

from __future__ import annotations

import re

import numpy as np
import onnx
from onnx import TensorProto

from shardrank.errors import ModelError
from shardrank.graph.edited import EditedGraph
from shardrank.graph.rows import IDS, MASK, Rows

POSITIONS = "position_ids"
# 0 keeps all of them, as in transformers.
NUM_LOGITS = ("num_logits_to_keep", "logits_to_keep")

_FLOATS = (TensorProto.FLOAT, TensorProto.FLOAT16, TensorProto.BFLOAT16)
# Which inputs of a fused attention are the past; left out, they mean that there is none.
_PAST_PLACES = {"GroupQueryAttention": (3, 4), "MultiHeadAttention": (6, 7)}


def is_past(value: onnx.ValueInfoProto) -> bool:
    """Whether a graph input is a past key or value: float [batch, heads, past, head size]."""
    kind = value.type.tensor_type
    return (
        re.search(r"past|cache", value.name) is not None
        and kind.elem_type in _FLOATS
        and len(kind.shape.dim) == 4
    )


def supply_inputs(graph: EditedGraph, rows: Rows, *, keeps_past: bool = False) -> None:
    """Make the graph ask for input_ids and attention_mask alone.

    The rolled rows take the place of both, row positions that of position_ids, a cache of length 0
    that of the past, and 0 that of num_logits_to_keep. Raises ModelError for any other input, and
    for a past whose shape is needed and not known.

    keeps_past: leave the past an input (graph.past).
    """
    given = {value.name: value for value in graph.inputs}
    for name in (IDS, MASK):
        if name not in given:
            raise ModelError(
                f"{graph.export.path} takes {', '.join(given)} and no {name}; give the export of a "
                f"causal language model with input_ids and attention_mask."
            )
    rolled = {IDS: rows.ids, MASK: rows.mask, POSITIONS: rows.positions}
    for name, value in given.items():
        if name in rolled:
            _replace(graph, value, rolled[name])
        elif name in NUM_LOGITS:
            _replace(graph, value, graph.weight("num_logits", np.zeros(_sizes(value), np.int64)))
        elif is_past(value):
            if keeps_past:
                continue
            _supply_past(graph, value)
        else:
            raise ModelError(
                f"{graph.export.path} takes {name}, which a Qwen3 reranker's export does not; give "
                f"the export of a causal language model, not of an encoder or of a merged decoder."
            )
        if name not in (IDS, MASK):
            graph.drop_input(name)


def _replace(graph: EditedGraph, value: onnx.ValueInfoProto, new: str) -> None:
    """Let the export read `new`, in the type that it declared."""
    kind = value.type.tensor_type.elem_type
    if kind != TensorProto.INT64:
        new = graph.node("Cast", [new], f"{new}.cast", front=True, to=kind)
        # The outside is int64 for every prepared model.
        value.type.tensor_type.elem_type = TensorProto.INT64
    graph.rename_uses(value.name, new)


def _supply_past(graph: EditedGraph, value: onnx.ValueInfoProto) -> None:
    """Leave the past out where the operator allows it; else put zeros of length 0 in its place.

    Unfused attention concatenates the past and reads its shape, so it needs a real one.
    """
    for node in graph.consumers(value.name):
        for place in _PAST_PLACES.get(node.op_type, ()):
            if place < len(node.input) and node.input[place] == value.name:
                node.input[place] = ""
    if not graph.consumers(value.name):
        return
    heads, size = (value.type.tensor_type.shape.dim[place].dim_value for place in (1, 3))
    if heads < 1 or size < 1:
        node = graph.consumers(value.name)[0]
        raise ModelError(
            f"{graph.export.path}: node {node.name!r} reads {value.name}, whose number of heads or "
            f"head size is not written in the file; export without past inputs."
        )
    one = graph.weight("past.first", np.array([0], np.int64))
    shape = graph.node("Shape", [IDS], "past.ids_shape", front=True)
    batch = graph.node("Gather", [shape, one], "past.batch", front=True, axis=0)
    rest = graph.weight("past.rest", np.array([heads, 0, size], np.int64))
    sizes = graph.node("Concat", [batch, rest], "past.shape", front=True, axis=0)
    zeros = graph.node("ConstantOfShape", [sizes], "past.zeros", front=True)
    empty = graph.node(
        "Cast", [zeros], "past.empty", front=True, to=value.type.tensor_type.elem_type
    )
    graph.rename_uses(value.name, empty)


def _sizes(value: onnx.ValueInfoProto) -> list[int]:
    """The shape of an input that holds one number: [] or [1]."""
    return [1 for _ in value.type.tensor_type.shape.dim]
