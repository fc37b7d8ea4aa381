"""What the graph asks of a matrix product; the graph around it is the same for all precisions."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol


class Linear(Protocol):
    """Writes matrix products and their weights into a graph."""

    def apply(self, values: str, names: Sequence[str]) -> list[str]:
        """Multiply the same values, [..., inputs], by each named weight's transpose.

        values: a name that is given once only, since nodes are called after it. Returns the names
        of the products, [..., outputs] each, of the values' type.
        """
        ...

    def scales(self, product: str) -> str:
        """What a product is yet to be multiplied by, float32 [tokens, 1]; "" where it is whole.

        Only for graphs whose layout is fused is a product less than whole.
        """
        ...


class WholeProducts:
    """A Linear whose products are what they are called."""

    def scales(self, product: str) -> str:
        """None: ""."""
        del product
        return ""
