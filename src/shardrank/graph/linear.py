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

    def apply_gated(self, values: str, gate: str, up: str, name: str) -> str | None:
        """SiLU of the product with one weight, times that with the other, both named as above.

        None, and nothing written, where the two have to be multiplied apart.
        """
        ...


class PlainProducts:
    """A Linear that opens no gates."""

    def apply_gated(self, values: str, gate: str, up: str, name: str) -> str | None:
        """None."""
        del values, gate, up, name
        return None
