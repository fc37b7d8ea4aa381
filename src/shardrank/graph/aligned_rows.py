"""Rows that begin at column 0, whatever side their padding was on."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from onnx import TensorProto

from shardrank.graph.writer import GraphWriter


@dataclass(frozen=True, slots=True)
class AlignedRows:
    """Names of the values that describe a batch whose rows begin at column 0.

    ids: int64 [batch, width], where width is sequence, or one more (see align_rows).
    last: int64 [batch, 1], the place of each row's last token.
    last_seen: int32 [batch], the last place that attention may read, for GroupQueryAttention
        (seqlens_k).
    num_seen: int32 scalar, the width (total_sequence_length).
    """

    ids: str
    last: str
    last_seen: str
    num_seen: str


def align_rows(writer: GraphWriter) -> AlignedRows:
    """Append the nodes from input_ids and attention_mask (1 a token, 0 padding) to aligned rows.

    GroupQueryAttention takes the first tokens of a row for the valid ones, which left padding
    breaks without an error. So each row is rolled by the place of its first token: exact for
    padding on either side. A row without a token counts as one of length 1: its logits mean
    nothing, and its neighbours are not disturbed.

    The width is even as in packed_rows.pack_rows.
    """
    node = writer.node
    zero = writer.constant("rows.zero", np.array(0, np.int64))
    one = writer.constant("rows.one", np.array(1, np.int64))
    two = writer.constant("rows.two", np.array(2, np.int64))
    axis = writer.constant("rows.axis", np.array([1], np.int64))

    shape = node("Shape", ["input_ids"], "rows.shape", start=1, end=2)
    sequence = node("Squeeze", [shape], "rows.sequence")
    odd = node("Mod", [sequence, two], "rows.odd")
    width = node("Add", [sequence, odd], "rows.width")
    columns = node("Range", [zero, width, one], "rows.columns")
    first = node("ArgMax", ["attention_mask"], "rows.first", axis=1, keepdims=1)
    shifted = node("Add", [first, columns], "rows.shifted")
    places = node("Mod", [shifted, sequence], "rows.places")
    ids = node("GatherElements", ["input_ids", places], "rows.ids", axis=1)

    length = node("ReduceSum", ["attention_mask", axis], "rows.length", keepdims=1)
    last = node("Max", [node("Sub", [length, one], "rows.length_less_one"), zero], "rows.last")
    last_seen = node("Squeeze", [last, axis], "rows.last_flat")
    return AlignedRows(
        ids=ids,
        last=last,
        last_seen=node("Cast", [last_seen], "rows.last_seen", to=TensorProto.INT32),
        num_seen=node("Cast", [width], "rows.num_seen_int32", to=TensorProto.INT32),
    )
