"""The layout `fused`: `padded` for GPUs, with shardrank's own operators where memory bounds it."""

from __future__ import annotations

from shardrank.engine.layouts import OPERATOR_DOMAIN
from shardrank.graph.architecture import Architecture
from shardrank.graph.layout import Operators
from shardrank.graph.padded import PaddedLayout
from shardrank.graph.writer import GraphWriter

_ATTENTION_OPSET = 23


class FusedLayout(PaddedLayout):
    """Inputs and outputs of `padded`; norms and positions of heads are one operator, as are gates.

    Those need engine.operators, head sizes and inner sizes that are multiples of 8, and heads of no
    more than 256 values (graph.layouts refuses others). The attention is ONNX's own, which stores
    no keys and values.
    """

    operators: Operators = "cuda"

    def __init__(self, writer: GraphWriter, architecture: Architecture) -> None:
        super().__init__(writer, architecture, norms_heads=True)
        writer.require_opset(_ATTENTION_OPSET)

    def attend(self, query: str, key: str, value: str, name: str, layer: int) -> str:
        """One layer's attention, [batch, width, heads x size]; layer is not needed here."""
        turned = f"{name}.query", f"{name}.key"
        weights = f"{name}.q_norm.weight", f"{name}.k_norm.weight"
        self._writer.node(
            "NormRotary",
            [query, key, *weights, "rotary.cosines", "rotary.sines"],
            f"{name}.turned",
            outputs=turned,
            domain=OPERATOR_DOMAIN,
            epsilon=self._architecture.norm_epsilon,
        )
        # Rows begin at column 0: a token sees tokens only, and what padding sees is not read.
        return self._writer.node(
            "Attention",
            [*turned, value],
            name,
            is_causal=1,
            q_num_heads=self._architecture.num_heads,
            kv_num_heads=self._architecture.num_key_value_heads,
        )
