"""Matrix products, one class per precision; the graph around them is the same for all."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from shardrank.graph.weights import Checkpoint
from shardrank.graph.writer import GraphWriter


@dataclass(frozen=True, slots=True)
class Float32Linear:
    """Weights as float32 [inputs, outputs], one MatMul each.

    One MatMul for query, key and value, or for gate and up, was measured no faster (1.25 s each for
    4 layers of the 0.6B shape and 8 x 128 tokens), so the matrices stay apart.
    """

    writer: GraphWriter
    checkpoint: Checkpoint

    def apply(self, values: str, names: Sequence[str]) -> list[str]:
        """Multiply the same values, float32 [..., inputs], by each named weight's transpose."""
        return [self._multiply(values, name) for name in names]

    def _multiply(self, values: str, name: str) -> str:
        outputs, inputs = self.checkpoint.shape(f"{name}.weight")
        matrix = self.checkpoint.read(f"{name}.weight").T
        weight = self.writer.weight(f"{name}.weight", (inputs, outputs), [matrix])
        return self.writer.node("MatMul", [values, weight], name)
