"""The layout `fused-prefix`: `prefix`, with shardrank's own operators for CPUs."""

from __future__ import annotations

import numpy as np

from shardrank.engine.layouts import (
    KEEPS_PAST,
    OPERATOR_DOMAIN,
    SHARES_PAST,
    past_names,
    present_names,
)
from shardrank.graph.layout import Operators
from shardrank.graph.norm_quantize import quantize_norms
from shardrank.graph.prefix import PrefixLayout
from shardrank.graph.writer import Tensor


class FusedPrefixLayout(PrefixLayout):
    """Inputs and outputs of `prefix`; a past of one row is that of all prompts of a run.

    What works token by token is as in `prefix`. The attention is causal, computes no future, and in
    bfloat16 where the processor multiplies that. Sums run in the order of absolute positions, so
    that a prompt's logits are the same bits alone, together, whole and in pieces of any size.
    keeps_past: int64 [1], 1 where present is asked for; else it is empty, and costs nothing. It is
    of all rows, [batch, heads, past + longest, size], each beginning at its first token.

    Needs engine.operators, and heads and widths of a multiple of 32 values (graph.layouts refuses
    others).
    """

    metadata = SHARES_PAST
    past_rows = "past_batch"
    norms_heads = True
    operators: Operators = "cpu"
    more_inputs = (Tensor(KEEPS_PAST, (1,), np.int64),)

    def attend(self, query: str, key: str, value: str, name: str, layer: int) -> str:
        """One layer's norms, rotary positions and attention, [tokens, heads x size]."""
        given = [query, key, value, f"{name}.q_norm.weight", f"{name}.k_norm.weight"]
        given += [
            "rotary.cosines",
            "rotary.sines",
            self._packed.ends,
            *past_names(layer),
            KEEPS_PAST,
        ]
        return self._writer.node(
            "PackedAttention",
            given,
            name,
            outputs=[name, *present_names(layer)],
            domain=OPERATOR_DOMAIN,
            epsilon=self._architecture.norm_epsilon,
        )

    def save(self, logits: str) -> None:
        """Write the graph."""
        self._writer.rewrite(quantize_norms)
        super().save(logits)
