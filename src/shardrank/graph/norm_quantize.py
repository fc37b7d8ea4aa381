"""Norms that are rounded at once."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence

import onnx
from onnx import helper

from shardrank.engine.layouts import OPERATOR_DOMAIN


def quantize_norms(nodes: Sequence[onnx.NodeProto]) -> list[onnx.NodeProto]:
    """The same graph, where a SumNorm that one RowQuantize alone reads is one operator with it.

    So normed values are neither written nor read. A norm whose values are rotated before, or read
    as they are too, stays as it is.
    """
    num_readers = Counter(name for node in nodes for name in node.input)
    norms = {node.output[0] for node in nodes if node.op_type == "SumNorm"}
    roundings = {
        node.input[0]: node
        for node in nodes
        if node.op_type == "RowQuantize"
        and node.input[0] in norms
        and num_readers[node.input[0]] == 1
        and helper.get_node_attr_value(node, "rotation") <= 1
    }
    joined = []
    for node in nodes:
        if node.op_type == "SumNorm" and node.output[0] in roundings:
            joined.append(_join(node, roundings[node.output[0]]))
        elif node.op_type != "RowQuantize" or node.input[0] not in roundings:
            joined.append(node)
    return joined


def _join(norm: onnx.NodeProto, rounding: onnx.NodeProto) -> onnx.NodeProto:
    return helper.make_node(
        "SumNormQuantize",
        norm.input,
        [*rounding.output, norm.output[1]],
        name=norm.name,
        domain=OPERATOR_DOMAIN,
        epsilon=helper.get_node_attr_value(norm, "epsilon"),
    )
