"""The tokens of a batch behind each other, without padding, and their places in rows and back."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from onnx import TensorProto

from shardrank.graph.writer import GraphWriter


@dataclass(frozen=True, slots=True)
class PackedRows:
    """Names of the values that describe a batch whose tokens are in one row.

    ids: int64 [tokens], those of the first prompt first.
    ends: int64 [batch], the tokens of each prompt and of all before it.
    last: int64 [batch], the place of each prompt's last token among them.
    to_rows: int64 [batch, width], the token that stands in each column where every prompt begins
        at column 0; behind a prompt's last token that one again.
    from_rows: int64 [tokens], the place of each token in those rows, row by row.
    last_seen: int32 [batch], the last place that attention may read, the past counted, for
        GroupQueryAttention (seqlens_k).
    num_seen: int32 scalar, past and width (total_sequence_length).
    num_new: int32 [batch], the tokens of each prompt rounded up to an even number, the past not
        counted (query_seqlens); empty without a past, where the kernel finds them itself.
    """

    ids: str
    ends: str
    last: str
    to_rows: str
    from_rows: str
    last_seen: str
    num_seen: str
    num_new: str


def pack_rows(writer: GraphWriter, past: str | None = None) -> PackedRows:
    """Append the nodes from input_ids and attention_mask (1 a token, 0 padding) to packed tokens.

    past: a value [batch, heads, tokens, size] whose tokens stand before every row; None for none.

    What works token by token sees no padding, on whichever side it was. Attention wants rows, and
    takes the first tokens of a row for the valid ones: left padding would be silently wrong. A row
    without a token counts as one of length 1: its logits mean nothing, and its neighbours are not
    disturbed.

    Past and width together are even because the attention works in blocks of columns, and a last
    block of one column goes through another kernel that rounds otherwise: a prompt of 513 tokens
    would get logits that depend on its neighbours' lengths (5e-7, on 1.32). So would a prompt of
    one token.
    """
    node = writer.node
    zero = writer.constant("rows.zero", np.array(0, np.int64))
    one = writer.constant("rows.one", np.array(1, np.int64))
    two = writer.constant("rows.two", np.array(2, np.int64))
    first_axis = writer.constant("rows.first_axis", np.array(0, np.int64))
    axis = writer.constant("rows.axis", np.array([1], np.int64))
    flat = writer.constant("rows.flat", np.array([-1], np.int64))

    # A token for the rows that have none: in their first column.
    shape = node("Shape", ["input_ids"], "rows.shape", start=1, end=2)
    sequence = node("Squeeze", [shape], "rows.sequence")
    columns_given = node("Range", [zero, sequence, one], "rows.columns_given")
    is_first = node("Less", [columns_given, one], "rows.is_first")
    has_token = node("ReduceMax", ["attention_mask", axis], "rows.has_token", keepdims=1)
    is_empty = node("Less", [has_token, one], "rows.is_empty")
    added = node("And", [is_empty, is_first], "rows.added")
    given = node("Cast", ["attention_mask"], "rows.given", to=TensorProto.BOOL)
    is_token = node("Or", [given, added], "rows.is_token")

    flat_ids = node("Reshape", ["input_ids", flat], "rows.flat_ids")
    flat_mask = node("Reshape", [is_token, flat], "rows.flat_mask")
    ids = node("Compress", [flat_ids, flat_mask], "rows.ids")
    counted = node("Cast", [is_token], "rows.counted", to=TensorProto.INT64)
    length = node("ReduceSum", [counted, axis], "rows.length", keepdims=0)
    end = node("CumSum", [length, first_axis], "rows.end")
    last = node("Sub", [end, one], "rows.last")

    num_past = zero
    if past is not None:
        past_shape = node("Shape", [past], "past.shape", start=2, end=3)
        num_past = node("Squeeze", [past_shape], "past.num")
    most = node("ReduceMax", [length], "rows.most", keepdims=0)
    odd = node("Mod", [node("Add", [most, num_past], "rows.all"), two], "rows.odd")
    width = node("Add", [most, odd], "rows.width")
    columns = node("Range", [zero, width, one], "rows.columns")
    length_of_row = node("Unsqueeze", [length, axis], "rows.length_of_row")
    start = node("Sub", [node("Unsqueeze", [end, axis], "rows.end_of_row"), length_of_row],
                 "rows.start")  # fmt: skip
    last_column = node("Sub", [length_of_row, one], "rows.last_column")
    within = node("Min", [columns, last_column], "rows.within")
    to_rows = node("Add", [start, within], "rows.to_rows")
    is_column = node("Less", [columns, length_of_row], "rows.is_column")
    places = node("NonZero", [node("Reshape", [is_column, flat], "rows.flat_columns")],
                  "rows.places")  # fmt: skip
    from_rows = node("Reshape", [places, flat], "rows.from_rows")

    num_seen = node("Add", [num_past, width], "rows.num_seen")
    last_seen = node("Sub", [length, one], "rows.last_of_row")
    num_new = ""
    if past is not None:
        # Even as well, for the same reason: the column more stands where no token looks.
        evened = node("Add", [length, node("Mod", [length, two], "rows.odd_length")], "rows.evened")
        num_new = node("Cast", [evened], "rows.num_new", to=TensorProto.INT32)
        seen = node("Add", [num_past, evened], "rows.seen")
        last_seen = node("Sub", [seen, one], "rows.last_seen_after_past")
    return PackedRows(
        ids=ids,
        ends=end,
        last=last,
        to_rows=to_rows,
        from_rows=from_rows,
        last_seen=node("Cast", [last_seen], "rows.last_seen", to=TensorProto.INT32),
        num_seen=node("Cast", [num_seen], "rows.num_seen_int32", to=TensorProto.INT32),
        num_new=num_new,
    )
