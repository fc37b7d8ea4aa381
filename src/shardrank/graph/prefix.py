"""The layout `prefix`: `padded`, and what a prompt's beginning left can be given and asked for."""

from __future__ import annotations

import numpy as np

from shardrank.engine.layouts import BATCHES_PAST, past_names, present_names
from shardrank.graph.architecture import Architecture
from shardrank.graph.layout import Operators
from shardrank.graph.packed import PackedLayout
from shardrank.graph.padded import BATCH_INPUTS
from shardrank.graph.writer import GraphWriter, Tensor


class PrefixLayout:
    """The layout `padded`, with keys and values of the tokens before as inputs and outputs.

    One graph serves a plain batch (past of length 0), the pass over a shared prefix (its presents
    are asked for) and the continuations of it, one or several. An output that nobody asks for
    costs nothing.

    past_key_values.<layer>.key and .value: float32 [batch, heads, past, size], of the tokens that
    stand before those of input_ids; attention_mask is of input_ids alone. past is even.
    present.<layer>.key and .value: [batch, heads, past + width, size].

    The attention is told how many tokens each row has after its past (query_seqlens), which
    onnxruntime knows from 1.32 on; before that, a past was of one row. The graph says that it may
    be of several (layouts.BATCHES_PAST).
    """

    num_axes = 1
    metadata = BATCHES_PAST
    past_rows = "batch"
    norms_heads = False
    operators: Operators = ""
    more_inputs: tuple[Tensor, ...] = ()

    def __init__(self, writer: GraphWriter, architecture: Architecture) -> None:
        self._writer = writer
        self._architecture = architecture
        self._packed = PackedLayout(writer, architecture, past=past_names(0)[0])

    def ids(self) -> str:
        """int64 [tokens]."""
        return self._packed.ids()

    def attend(self, query: str, key: str, value: str, name: str, layer: int) -> str:
        """One layer's attention, [tokens, heads x size]."""
        return self._packed.attend_after(
            (query, key, value), past_names(layer), present_names(layer), name
        )

    def last(self, values: str) -> str:
        """From [tokens, n] to [batch, n]."""
        return self._packed.last(values)

    def save(self, logits: str) -> None:
        """Write the graph."""
        pasts, presents = (
            [
                self._cache(name, length)
                for layer in range(self._architecture.num_layers)
                for name in names(layer)
            ]
            for names, length in ((past_names, "past"), (present_names, "seen"))
        )
        self._writer.save(
            [*BATCH_INPUTS, *self.more_inputs, *pasts],
            [Tensor(logits, ("batch", 2), np.float32), *presents],
            metadata=self.metadata,
        )

    def _cache(self, name: str, length: str) -> Tensor:
        shape = self._architecture
        axes = (self.past_rows, shape.num_key_value_heads, length, shape.head_size)
        return Tensor(name, axes, np.float32)
