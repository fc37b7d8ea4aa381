"""The layout `fused-prefix`: `prefix`, with shardrank's own operators for CPUs."""

from __future__ import annotations

from collections.abc import Sequence

from shardrank.engine.layouts import OPERATOR_DOMAIN, SHARES_PAST, past_names
from shardrank.graph.architecture import Architecture
from shardrank.graph.layout import Operators
from shardrank.graph.packed import PackedLayout
from shardrank.graph.prefix import PrefixLayout
from shardrank.graph.writer import GraphWriter


class _FusedPackedLayout(PackedLayout):
    def attend_after(
        self,
        values: Sequence[str],
        pasts: Sequence[str],
        presents: Sequence[str],
        name: str,
        scales: str = "",
    ) -> str:
        """Norms, rotary positions and attention of query, key and value, in one operator."""
        weights = f"{name}.q_norm.weight", f"{name}.k_norm.weight"
        return self._writer.node(
            "PackedAttention",
            [
                *(*values, *weights, "rotary.cosines", "rotary.sines", self._rows.ends, *pasts),
                *([scales] if scales else []),
            ],
            name,
            outputs=[name, *presents],
            domain=OPERATOR_DOMAIN,
            epsilon=self._architecture.norm_epsilon,
        )


class FusedPrefixLayout(PrefixLayout):
    """Inputs and outputs of `prefix`; a past of one row is that of all prompts of a run.

    What works token by token is as in `prefix`. The attention is causal, computes no future, and in
    bfloat16 where the processor multiplies that. Sums run in the order of absolute positions, so
    that a prompt's logits are the same bits alone, together, whole and in pieces of any size.
    present is empty for a run of several prompts, whose keys and values nobody asks for.

    Needs engine.operators, and heads and widths of a multiple of 32 values (graph.layouts refuses
    others).
    """

    metadata = SHARES_PAST
    past_rows = "past_batch"

    norms_heads = True
    operators: Operators = "cpu"

    @staticmethod
    def _pack(writer: GraphWriter, architecture: Architecture) -> PackedLayout:
        return _FusedPackedLayout(writer, architecture, past=past_names(0)[0])
