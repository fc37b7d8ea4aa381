"""The layout `padded` for GPUs: a batch as on the model card, with padding on either side."""

from __future__ import annotations

import numpy as np

from shardrank.graph.aligned_rows import align_rows
from shardrank.graph.architecture import Architecture
from shardrank.graph.attention import append_attention
from shardrank.graph.layout import Operators
from shardrank.graph.writer import GraphWriter, Tensor

BATCH_INPUTS = (
    Tensor("input_ids", ("batch", "sequence"), np.int64),
    Tensor("attention_mask", ("batch", "sequence"), np.int64),
)


class PaddedLayout:
    """input_ids and attention_mask, int64 [batch, sequence], to logits, float32 [batch, 2].

    Values stay rectangular: a GPU does not wait to hear how many tokens there are.

    norms_heads: leave the norms of query and key to the attention, which on CUDA does them in the
        pass that turns and stores the heads anyway; its kernel for CPUs has no norms.
    """

    num_axes = 2
    operators: Operators = ""

    def __init__(
        self, writer: GraphWriter, architecture: Architecture, *, norms_heads: bool = False
    ) -> None:
        self._writer = writer
        self._architecture = architecture
        self._rows = align_rows(writer)
        self.norms_heads = norms_heads

    def ids(self) -> str:
        """int64 [batch, width], each row from column 0."""
        return self._rows.ids

    def attend(self, query: str, key: str, value: str, name: str, layer: int) -> str:
        """One layer's attention, [batch, width, heads x size]; layer is not needed here."""
        rows = self._rows
        # Nobody reads the cache; its names select the kernel that is faster on long rows.
        presents = (f"{name}.present_key", f"{name}.present_value")
        norms = [f"{name}.{norm}.weight" for norm in ("q_norm", "k_norm")]
        return append_attention(
            self._writer,
            self._architecture,
            [query, key, value, "", "", rows.last_seen, rows.num_seen],
            [name, *presents],
            norms=norms if self.norms_heads else (),
        )

    def last(self, values: str) -> str:
        """From [batch, width, n] to [batch, n]."""
        return self._writer.node(
            "GatherND", [values, self._rows.last], f"{values}.last", batch_dims=1
        )

    def save(self, logits: str) -> None:
        """Write the graph."""
        self._writer.save(BATCH_INPUTS, (Tensor(logits, ("batch", 2), np.float32),))
