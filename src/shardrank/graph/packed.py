"""The inputs of the layouts `padded` and `prefix`, and tokens behind each other on CPUs."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from shardrank.graph.architecture import Architecture
from shardrank.graph.attention import append_attention
from shardrank.graph.layout import Operators
from shardrank.graph.packed_rows import pack_rows
from shardrank.graph.padded import BATCH_INPUTS
from shardrank.graph.writer import GraphWriter, Tensor


class PackedLayout:
    """input_ids and attention_mask, int64 [batch, sequence], to logits, float32 [batch, 2].

    Only the attention sees rows, so prompts of any lengths share a batch, and no product is
    computed for padding (docs/decisions/017-packed.md).

    past: as for pack_rows; what a layout that has one is built on.
    """

    num_axes = 1
    norms_heads = False
    operators: Operators = ""

    def __init__(
        self, writer: GraphWriter, architecture: Architecture, past: str | None = None
    ) -> None:
        self._writer = writer
        self._architecture = architecture
        self._rows = pack_rows(writer, past)
        size = architecture.query_size
        self._joined = writer.constant("rows.joined", np.array([-1, size], np.int64))

    @property
    def ends(self) -> str:
        """int64 [batch], the tokens of each prompt and of all before it."""
        return self._rows.ends

    def ids(self) -> str:
        """int64 [tokens]."""
        return self._rows.ids

    def attend(self, query: str, key: str, value: str, name: str, layer: int) -> str:
        """One layer's attention, [tokens, heads x size]; layer is not needed here."""
        # Nobody reads the cache; its names select the kernel that is faster on long rows.
        presents = (f"{name}.present_key", f"{name}.present_value")
        return self.attend_after((query, key, value), ("", ""), presents, name)

    def attend_after(
        self, values: Sequence[str], pasts: Sequence[str], presents: Sequence[str], name: str
    ) -> str:
        """The attention of query, key and value; pasts and presents: key, value."""
        node, rows = self._writer.node, self._rows
        in_rows = [
            node("Gather", [value, rows.to_rows], f"{value}.in_rows", axis=0) for value in values
        ]
        attended = append_attention(
            self._writer,
            self._architecture,
            [*in_rows, *pasts, rows.last_seen, rows.num_seen],
            [f"{name}.in_rows", *presents],
            num_new=rows.num_new,
        )
        joined = node("Reshape", [attended, self._joined], f"{name}.joined")
        return node("Gather", [joined, rows.from_rows], name, axis=0)

    def last(self, values: str) -> str:
        """From [tokens, n] to [batch, n]."""
        return self._writer.node("Gather", [values, self._rows.last], f"{values}.last", axis=0)

    def save(self, logits: str) -> None:
        """Write the graph."""
        self._writer.save(BATCH_INPUTS, (Tensor(logits, ("batch", 2), np.float32),))
