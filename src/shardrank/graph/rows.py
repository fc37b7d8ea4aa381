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
    """Names of the values that describe the rolled batch; width >= 2, past is 0 without one.

    ids: int64 [batch, width].
    mask: int64 [batch, past + width], 1 a token, 0 padding, ones first.
    positions: int64 [batch, width], past, past + 1, ... in each row.
    last: int64 [batch, 1], the place of each row's last token among the ids.
    last_seen: int32 [batch], the last place that attention may read, the past counted, for
        GroupQueryAttention (seqlens_k). num_seen: int32 scalar, past + width
        (total_sequence_length). Both are empty without a past: the export finds them itself.
    """

    ids: str
    mask: str
    positions: str
    last: str
    last_seen: str = ""
    num_seen: str = ""


def align_rows(graph: EditedGraph, *, even: bool, past: str | None = None) -> Rows:
    """Put the nodes from input_ids and attention_mask to rolled rows before all others.

    Each row is rolled by the place of its first token, which is exact for padding on either side.
    GroupQueryAttention takes the first tokens of a row for the valid ones (seqlens_k is the number
    of ones), and unfused attention, which masks, does not mind. What follows a row is its last
    token again, masked. A row without a token counts as one of length 1: its logits mean nothing,
    and its neighbours are not disturbed.

    past: a value [batch, heads, tokens, size] whose tokens stand before every row; None for none.
        Where it holds any, the batch is one row: the kernel knows no more.
    even: make past and width together an even number, since attention kernels round a last lone
        column otherwise (graph.padded). A width of one would take GroupQueryAttention's generating
        path. Where the numbers move with the batch anyhow, no column is added: it would move them
        too.
    """
    one = graph.weight("rows.one", np.array(1, np.int64))
    zero = graph.weight("rows.zero", np.array(0, np.int64))
    two = graph.weight("rows.two", np.array(2, np.int64))
    axis = graph.weight("rows.axis", np.array([1], np.int64))

    def node(operator: str, inputs: list[str], name: str, **attributes: Any) -> str:
        return graph.node(operator, inputs, f"rows.{name}", front=True, **attributes)

    shape = node("Shape", [IDS], "shape")
    sequence = node("Gather", [shape, one], "sequence", axis=0)
    num_past = zero
    if past is not None:
        num_past = node("Gather", [node("Shape", [past], "past_shape"), two], "num_past", axis=0)
    if even:
        odd = node("Mod", [node("Add", [sequence, num_past], "all"), two], "odd")
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
    mask = node("Cast", [is_token], "mask", to=TensorProto.INT64)
    whole = node("Shape", [ids], "whole")
    positions = node("Expand", [columns, whole], "positions")
    if past is None:
        return Rows(ids, mask, positions, last)

    # A reshape to [1] makes an axis of a number.
    batch = node("Gather", [shape, graph.weight("rows.zero_axis", np.array([0]))], "batch", axis=0)
    past_axis = node("Reshape", [num_past, axis], "past_axis")
    before = node("Concat", [batch, past_axis], "before", axis=0)
    past_mask = node("Expand", [one, before], "past_mask")
    num_seen = node("Add", [num_past, width], "num_seen")
    # After a past the kernel takes all columns for tokens. Those behind a row's last one stand
    # where no token of it looks.
    end = node("Sub", [num_seen, one], "end")
    has_past = node("Min", [num_past, one], "has_past")
    past_end = node("Mul", [has_past, end], "past_end")
    seen = node("Max", [node("Squeeze", [last, axis], "last_flat"), past_end], "seen")
    return Rows(
        ids=ids,
        mask=node("Concat", [past_mask, mask], "whole_mask", axis=1),
        positions=node("Add", [positions, num_past], "past_positions"),
        last=last,
        last_seen=node("Cast", [seen], "last_seen", to=TensorProto.INT32),
        num_seen=node("Cast", [num_seen], "num_seen_int32", to=TensorProto.INT32),
    )
