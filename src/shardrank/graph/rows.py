"""The rows of a batch as an export wants them: beginning at column 0, whatever side was padded."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from onnx import TensorProto

from shardrank.graph.edited import EditedGraph

IDS = "input_ids"
MASK = "attention_mask"


@dataclass(frozen=True, slots=True)
class Rows:
    """Names of the values that describe the rolled batch; width >= 2.

    ids: int64 [batch, width]. mask: int64 [batch, width], 1 a token, 0 padding, ones first.
    positions: int64 [batch, width], 0, 1, 2 ... in each row.
    last: int64 [batch, 1], the place of each row's last token.
    """

    ids: str
    mask: str
    positions: str
    last: str


def align_rows(graph: EditedGraph, *, even: bool) -> Rows:
    """Put the nodes from input_ids and attention_mask to rolled rows before all others.

    Each row is rolled by the place of its first token, which is exact for padding on either side.
    GroupQueryAttention takes the first tokens of a row for the valid ones (seqlens_k is the number
    of ones), and unfused attention, which masks, does not mind. What follows a row is its last
    token again, masked. A row without a token counts as one of length 1: its logits mean nothing,
    and its neighbours are not disturbed.

    even: make the width an even number, since attention kernels round a last lone column otherwise
        (graph.padded). A width of one would take GroupQueryAttention's generating path. Where the
        numbers move with the batch anyhow, no column is added: it would move them too.
    """
    one = graph.weight("rows.one", np.array(1, np.int64))
    zero = graph.weight("rows.zero", np.array(0, np.int64))
    two = graph.weight("rows.two", np.array(2, np.int64))
    axis = graph.weight("rows.axis", np.array([1], np.int64))

    def node(operator: str, inputs: list[str], name: str, **attributes: Any) -> str:
        return graph.node(operator, inputs, f"rows.{name}", front=True, **attributes)

    shape = node("Shape", [IDS], "shape")
    sequence = node("Gather", [shape, one], "sequence", axis=0)
    if even:
        odd = node("Mod", [sequence, two], "odd")
        width = node("Add", [sequence, odd], "width")
    else:
        width = node("Max", [sequence, two], "width")
    columns = node("Range", [zero, width, one], "columns")

    first = node("ArgMax", [MASK], "first", axis=1, keepdims=1)
    counted = node("ReduceSum", [MASK, axis], "counted", keepdims=1)
    length = node("Max", [counted, one], "length")
    last = node("Sub", [length, one], "last")
    within = node("Min", [columns, last], "within")
    places = node("Add", [first, within], "places")
    ids = node("GatherElements", [IDS, places], "ids", axis=1)
    is_token = node("Less", [columns, length], "is_token")
    whole = node("Shape", [ids], "whole")
    return Rows(
        ids=ids,
        mask=node("Cast", [is_token], "mask", to=TensorProto.INT64),
        positions=node("Expand", [columns, whole], "positions"),
        last=last,
    )
