"""How prompts lie in a graph's inputs; all else of the graph is the same for every layout."""

from __future__ import annotations

from typing import Literal, Protocol

Operators = Literal["", "cuda", "cpu"]


class Layout(Protocol):
    """Writes the nodes that know which token belongs to which prompt, and where it stands.

    num_axes: of tokens: 2 where values are [batch, width, n], 1 where they are [tokens, n].
    norms_heads: True where `attend` normalises each head of query and key itself, with the weights
        <name>.q_norm.weight and <name>.k_norm.weight.
    operators: which of shardrank's own operators the graph may use (engine/native): those that
        CUDA has, those that CPUs have, or none. Either take the weights of the norms of heads, and
        the rotary tables, in float32.
    """

    num_axes: int
    norms_heads: bool
    operators: Operators

    def ids(self) -> str:
        """Append the nodes before the first layer; returns the ids to embed, int64."""
        ...

    def attend(self, query: str, key: str, value: str, name: str, layer: int) -> str:
        """Append one layer's attention, rotary positions included; values [..., heads x size]."""
        ...

    def last(self, values: str) -> str:
        """Append a gather of each prompt's last token: [..., n] to [batch, n]."""
        ...

    def save(self, logits: str) -> None:
        """Write the graph with the layout's inputs and outputs; logits float32 [batch, 2]."""
        ...
