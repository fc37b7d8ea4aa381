"""The layout `padded`: a batch as on the model card, with padding on either side."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from onnx import TensorProto

from shardrank.graph.writer import GraphWriter

INPUTS = {
    "input_ids": ("batch", "sequence"),
    "attention_mask": ("batch", "sequence"),
}


@dataclass(frozen=True, slots=True)
class AlignedRows:
    """Names of the values that describe a batch whose rows begin at column 0.

    ids: int64 [batch, width], where width is sequence rounded up to an even number.
    last: int64 [batch, 1], the place of each row's last token.
    last_int32: int32 [batch], the same, for GroupQueryAttention (seqlens_k).
    width: int32 scalar, the number of columns (total_sequence_length).
    """

    ids: str
    last: str
    last_int32: str
    width: str


def align_rows(writer: GraphWriter) -> AlignedRows:
    """Append the nodes from input_ids and attention_mask (1 a token, 0 padding) to aligned rows.

    GroupQueryAttention takes the first tokens of a row for the valid ones, which left padding
    breaks without an error. So each row is rolled by the place of its first token: exact for
    padding on either side. A row without a token counts as one of length 1: its logits mean
    nothing, and its neighbours are not disturbed.

    The width is even because the attention works in blocks of columns, and a last block of one
    column goes through another kernel that rounds otherwise: a prompt of 513 tokens would get
    logits that depend on its neighbours' lengths (5e-7, on 1.32). So would a prompt of one token.
    """
    zero = writer.constant("rows.zero", np.array(0, np.int64))
    one = writer.constant("rows.one", np.array(1, np.int64))
    two = writer.constant("rows.two", np.array(2, np.int64))
    axis = writer.constant("rows.axis", np.array([1], np.int64))

    shape = writer.node("Shape", ["input_ids"], "rows.shape", start=1, end=2)
    sequence = writer.node("Squeeze", [shape], "rows.sequence")
    odd = writer.node("Mod", [sequence, two], "rows.odd")
    width = writer.node("Add", [sequence, odd], "rows.width")
    columns = writer.node("Range", [zero, width, one], "rows.columns")
    first = writer.node("ArgMax", ["attention_mask"], "rows.first", axis=1, keepdims=1)
    shifted = writer.node("Add", [first, columns], "rows.shifted")
    places = writer.node("Mod", [shifted, sequence], "rows.places")
    ids = writer.node("GatherElements", ["input_ids", places], "rows.ids", axis=1)

    length = writer.node("ReduceSum", ["attention_mask", axis], "rows.length", keepdims=1)
    before = writer.node("Sub", [length, one], "rows.length_less_one")
    last = writer.node("Max", [before, zero], "rows.last")
    flat = writer.node("Squeeze", [last, axis], "rows.last_flat")
    return AlignedRows(
        ids=ids,
        last=last,
        last_int32=writer.node("Cast", [flat], "rows.last_int32", to=TensorProto.INT32),
        width=writer.node("Cast", [width], "rows.width_int32", to=TensorProto.INT32),
    )
