"""The layout `padded`: a batch as on the model card, with padding on either side."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from shardrank.graph.aligned_rows import align_rows
from shardrank.graph.architecture import Architecture
from shardrank.graph.writer import MICROSOFT, GraphWriter, Tensor

BATCH_INPUTS = (
    Tensor("input_ids", ("batch", "sequence"), np.int64),
    Tensor("attention_mask", ("batch", "sequence"), np.int64),
)
# Places among the inputs of GroupQueryAttention. The key norm's weight is behind the query's.
_QUERY_NORM, _NUM_NEW = 14, 16


class PaddedLayout:
    """input_ids and attention_mask, int64 [batch, sequence], to logits, float32 [batch, 2].

    past: as for align_rows; what a layout that has one is built on.
    norms_heads: leave the norms of query and key to the attention, which on CUDA does them in the
        pass that turns and stores the heads anyway; its kernel for CPUs has no norms.
    """

    num_axes = 2

    def __init__(
        self,
        writer: GraphWriter,
        architecture: Architecture,
        past: str | None = None,
        *,
        norms_heads: bool = False,
    ) -> None:
        self._writer = writer
        self._architecture = architecture
        self._rows = align_rows(writer, past)
        self.norms_heads = norms_heads

    def ids(self) -> str:
        """int64 [batch, width], each row from column 0."""
        return self._rows.ids

    def attend(self, query: str, key: str, value: str, name: str, layer: int) -> str:
        """One layer's attention, [batch, width, heads x size]; layer is not needed here."""
        # Nobody reads the cache; its names select the kernel that is faster on long rows.
        presents = (f"{name}.present_key", f"{name}.present_value")
        return self.attend_after((query, key, value), ("", ""), presents, name)

    def attend_after(
        self, values: Sequence[str], pasts: Sequence[str], presents: Sequence[str], name: str
    ) -> str:
        """The attention node; values: query, key, value; pasts and presents: key, value."""
        rows = self._rows
        inputs = [*values, *pasts, rows.last_seen, rows.num_seen, "rotary.cosines", "rotary.sines"]
        attributes: dict[str, int | float] = {}
        if self.norms_heads:
            _put(inputs, _QUERY_NORM, f"{name}.q_norm.weight", f"{name}.k_norm.weight")
            attributes["qk_norm_epsilon"] = self._architecture.norm_epsilon
        if rows.num_new:
            _put(inputs, _NUM_NEW, rows.num_new)
        return self._writer.node(
            "GroupQueryAttention",
            inputs,
            name,
            outputs=[name, *presents],
            domain=MICROSOFT,
            num_heads=self._architecture.num_heads,
            kv_num_heads=self._architecture.num_key_value_heads,
            do_rotary=1,
            **attributes,
        )

    def last(self, values: str) -> str:
        """From [batch, width, n] to [batch, n]."""
        return self._writer.node(
            "GatherND", [values, self._rows.last], f"{values}.last", batch_dims=1
        )

    def save(self, logits: str) -> None:
        """Write the graph."""
        self._writer.save(BATCH_INPUTS, (Tensor(logits, ("batch", 2), np.float32),))


def _put(inputs: list[str], place: int, *names: str) -> None:
    """Append at this place; what is skipped is left out."""
    inputs += [""] * (place - len(inputs))
    inputs += names
