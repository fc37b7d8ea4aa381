"""Some matrix products in another precision than the rest."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from shardrank.graph.linear import Linear


@dataclass(frozen=True, slots=True)
class MixedLinear:
    """Asks one of two for each product, by its name.

    kept: names of the products, without ".weight", that `higher` multiplies; products of the same
        values are kept together or not at all.
    """

    usual: Linear
    higher: Linear
    kept: frozenset[str]

    def apply(self, values: str, names: Sequence[str]) -> list[str]:
        """Multiply the same values, [..., inputs], by each named weight's transpose."""
        return self._choose(names).apply(values, names)

    def apply_gated(self, values: str, gate: str, up: str, name: str) -> str | None:
        """As the one that multiplies both says."""
        return self._choose([gate, up]).apply_gated(values, gate, up, name)

    def _choose(self, names: Sequence[str]) -> Linear:
        return self.higher if self.kept.issuperset(names) else self.usual
