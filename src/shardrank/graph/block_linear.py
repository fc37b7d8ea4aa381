"""int8 and int4: matrix products of weights in blocks, by com.microsoft.MatMulNBits."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from shardrank.graph.linear import PlainProducts
from shardrank.graph.quantize import quantize_blocks
from shardrank.graph.weights import Checkpoint
from shardrank.graph.writer import MICROSOFT, GraphWriter

# Activations as 8-bit integers, block by block. The levels below take another kernel for one row
# than for several, and the last layer has one row where a prompt is alone.
_ACCURACY_LEVEL = 4


@dataclass(frozen=True, slots=True)
class BlockLinear(PlainProducts):
    """Weights of 4 or 8 bits with a scale for every block of inputs.

    block_size: up to 32 a product of one row equals its row among others bit for bit (measured
        for 1 to 130 rows of every matrix of the 0.6B shape, 1 and 2 threads, onnxruntime 1.32 on
        AVX-512 VNNI). At 64 (4 bits) and 128 (4 and 8 bits) it differs by up to 2e-6.
    """

    writer: GraphWriter
    checkpoint: Checkpoint
    bits: int
    block_size: int

    def apply(self, values: str, names: Sequence[str]) -> list[str]:
        """Multiply the same values, float32 [..., inputs], by each named weight's transpose."""
        return [self._multiply(values, name) for name in names]

    def _multiply(self, values: str, name: str) -> str:
        outputs, inputs = self.checkpoint.shape(f"{name}.weight")
        rows = self.checkpoint.read(f"{name}.weight")
        blocks, scales = quantize_blocks(rows, self.bits, self.block_size)
        weight = self.writer.weight(f"{name}.weight", blocks.shape, [blocks], dtype=np.uint8)
        return self.writer.node(
            "MatMulNBits",
            [values, weight, self.writer.constant(f"{name}.scales", scales)],
            name,
            domain=MICROSOFT,
            K=inputs,
            N=outputs,
            bits=self.bits,
            block_size=self.block_size,
            accuracy_level=_ACCURACY_LEVEL,
        )
