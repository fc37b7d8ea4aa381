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
    last_seen: int32 [batch], the last place that attention may read, the past counted, for
        GroupQueryAttention (seqlens_k).
    num_seen: int32 scalar, past and width (total_sequence_length).
    num_new: int32 [batch], the tokens of each row rounded up to an even number, the past not
        counted (query_seqlens); empty without a past, where the kernel finds them itself.
    """

    ids: str
    last: str
    last_seen: str
    num_seen: str
    num_new: str


def align_rows(writer: GraphWriter, past: str | None = None) -> AlignedRows:
    """Append the nodes from input_ids and attention_mask (1 a token, 0 padding) to aligned rows.

    past: a value [batch, heads, tokens, size] whose tokens stand before every row; None for none.

    GroupQueryAttention takes the first tokens of a row for the valid ones, which left padding
    breaks without an error. So each row is rolled by the place of its first token: exact for
    padding on either side. A row without a token counts as one of length 1: its logits mean
    nothing, and its neighbours are not disturbed.

    Past and width together are even because the attention works in blocks of columns, and a last
    block of one column goes through another kernel that rounds otherwise: a prompt of 513 tokens
    would get logits that depend on its neighbours' lengths (5e-7, on 1.32). So would a prompt of
    one token.
    """
    node = writer.node
    zero = writer.constant("rows.zero", np.array(0, np.int64))
    one = writer.constant("rows.one", np.array(1, np.int64))
    two = writer.constant("rows.two", np.array(2, np.int64))
    axis = writer.constant("rows.axis", np.array([1], np.int64))

    shape = node("Shape", ["input_ids"], "rows.shape", start=1, end=2)
    sequence = node("Squeeze", [shape], "rows.sequence")
    num_past = zero
    if past is not None:
        past_shape = node("Shape", [past], "past.shape", start=2, end=3)
        num_past = node("Squeeze", [past_shape], "past.num")
    odd = node("Mod", [node("Add", [sequence, num_past], "rows.all"), two], "rows.odd")
    width = node("Add", [sequence, odd], "rows.width")
    columns = node("Range", [zero, width, one], "rows.columns")
    first = node("ArgMax", ["attention_mask"], "rows.first", axis=1, keepdims=1)
    shifted = node("Add", [first, columns], "rows.shifted")
    places = node("Mod", [shifted, sequence], "rows.places")
    ids = node("GatherElements", ["input_ids", places], "rows.ids", axis=1)

    length = node("ReduceSum", ["attention_mask", axis], "rows.length", keepdims=1)
    last = node("Max", [node("Sub", [length, one], "rows.length_less_one"), zero], "rows.last")
    last_seen = node("Squeeze", [last, axis], "rows.last_flat")
    num_seen = node("Add", [num_past, width], "rows.num_seen")
    num_new = ""
    if past is not None:
        # Even as well, for the same reason: the column more stands where no token looks.
        flat = node("Add", [last_seen, one], "rows.length_flat")
        evened = node("Add", [flat, node("Mod", [flat, two], "rows.odd_length")], "rows.evened")
        num_new = node("Cast", [evened], "rows.num_new", to=TensorProto.INT32)
        seen = node("Add", [num_past, evened], "rows.seen")
        last_seen = node("Sub", [seen, one], "rows.last_seen_after_past")
    return AlignedRows(
        ids=ids,
        last=last,
        last_seen=node("Cast", [last_seen], "rows.last_seen", to=TensorProto.INT32),
        num_seen=node("Cast", [num_seen], "rows.num_seen_int32", to=TensorProto.INT32),
        num_new=num_new,
    )
