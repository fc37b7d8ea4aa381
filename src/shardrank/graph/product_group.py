"""Matrix products that read the same values: what is smoothed, judged and kept together."""

from __future__ import annotations

from dataclasses import dataclass

from shardrank.graph.architecture import Architecture


@dataclass(frozen=True, slots=True)
class ProductGroup:
    """The products of one input.

    name: "layers.0.qkv", "layers.0.o", "layers.0.gate_up" or "layers.0.down". layer: from 0.
    products: names without ".weight", in the order in which the graph asks for them.
    num_inputs, num_outputs: of all products together.
    producer: the tensor whose rows (or values, for a norm) scale the input's channels.
    heads: (key/value heads, query heads that share one, head size) where the producer's rows are
        used by several channels; else (1, 1, num_inputs).
    sees_last_only: True in the last layer, where only a prompt's last token is multiplied.
    """

    name: str
    layer: int
    products: tuple[str, ...]
    num_inputs: int
    num_outputs: int
    producer: str
    heads: tuple[int, int, int]
    sees_last_only: bool

    @property
    def num_weights(self) -> int:
        """Weights of all products together: what a token costs."""
        return self.num_inputs * self.num_outputs


def product_groups(architecture: Architecture) -> list[ProductGroup]:
    """All groups of a decoder, in the order of the graph."""
    return [
        group
        for layer in range(architecture.num_layers)
        for group in _layer_groups(architecture, layer)
    ]


def _layer_groups(architecture: Architecture, layer: int) -> list[ProductGroup]:
    prefix = f"layers.{layer}"
    attention, mlp = f"{prefix}.self_attn", f"{prefix}.mlp"
    hidden, middle = architecture.hidden_size, architecture.intermediate_size
    query, key_value = architecture.query_size, architecture.key_value_size
    shared = architecture.num_heads // architecture.num_key_value_heads
    heads = (architecture.num_key_value_heads, shared, architecture.head_size)
    is_last = layer == architecture.num_layers - 1
    return [
        ProductGroup(
            f"{prefix}.qkv",
            layer,
            (f"{attention}.q_proj", f"{attention}.k_proj", f"{attention}.v_proj"),
            hidden,
            query + 2 * key_value,
            f"{prefix}.input_layernorm.weight",
            (1, 1, hidden),
            False,
        ),
        ProductGroup(
            f"{prefix}.o",
            layer,
            (f"{attention}.o_proj",),
            query,
            hidden,
            f"{attention}.v_proj.weight",
            heads,
            is_last,
        ),
        ProductGroup(
            f"{prefix}.gate_up",
            layer,
            (f"{mlp}.gate_proj", f"{mlp}.up_proj"),
            hidden,
            2 * middle,
            f"{prefix}.post_attention_layernorm.weight",
            (1, 1, hidden),
            is_last,
        ),
        ProductGroup(
            f"{prefix}.down",
            layer,
            (f"{mlp}.down_proj",),
            middle,
            hidden,
            f"{mlp}.up_proj.weight",
            (1, 1, middle),
            is_last,
        ),
    ]
