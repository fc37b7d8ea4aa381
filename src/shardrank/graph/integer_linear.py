"""W8A8 on CPUs, by shardrank's own operators."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from shardrank.engine.layouts import OPERATOR_DOMAIN
from shardrank.graph.column_blocks import BLOCK_COLUMNS, pack_columns
from shardrank.graph.quantize import Int8Array, quantize_rows
from shardrank.graph.rotation import rotate_weights, rotation_size
from shardrank.graph.weights import Checkpoint
from shardrank.graph.writer import GraphWriter
from shardrank.types import Float32Array

_ZERO_POINT = 128


@dataclass(frozen=True, slots=True)
class IntegerLinear:
    """The integers and scales of token_linear.TokenLinear, in two operators of shardrank's own.

    Integers are exact on every processor (onnxruntime's products saturate on x86 without VNNI), and
    products are scaled, and gates opened, while their sums are still at hand.
    """

    writer: GraphWriter
    checkpoint: Checkpoint

    def apply(self, values: str, names: Sequence[str]) -> list[str]:
        """Multiply the same values, float32 [tokens, inputs], by each named weight's transpose."""
        quantized = self._quantize(values, names[0])
        return [self._multiply(quantized, name, *self._integers(name)) for name in names]

    def apply_gated(self, values: str, gate: str, up: str, name: str) -> str:
        """SiLU of the values times the gate's weight, times the values times the other's."""
        quantized = self._quantize(values, gate)
        (gate_rows, gate_scales), (up_rows, up_scales) = self._integers(gate), self._integers(up)
        rows, scales = interleave(gate_rows, up_rows), interleave(gate_scales, up_scales)
        return self._multiply(quantized, name, rows, scales, is_gated=True)

    def _quantize(self, values: str, name: str) -> tuple[str, str]:
        """uint8 [tokens, inputs] with zero at 128, and the tokens' scales, float32 [tokens, 1]."""
        outputs = f"{values}.integers", f"{values}.scales"
        self.writer.node(
            "RowQuantize",
            [values],
            f"{values}.quantized",
            outputs=outputs,
            domain=OPERATOR_DOMAIN,
            rotation=self._rotation_size(name),
        )
        return outputs

    def _integers(self, name: str) -> tuple[Int8Array, Float32Array]:
        weight = self.checkpoint.read(f"{name}.weight")
        return quantize_rows(rotate_weights(weight, self._rotation_size(name)))

    def _multiply(
        self,
        quantized: tuple[str, str],
        name: str,
        rows: Int8Array,
        scales: Float32Array,
        *,
        is_gated: bool = False,
    ) -> str:
        constant = self.writer.constant
        offsets = _ZERO_POINT * rows.sum(axis=1, dtype=np.int32)
        return self.writer.node(
            "IntegerProduct",
            [*quantized, constant(f"{name}.weight", pack_integers(rows)),
             constant(f"{name}.weight_scales", scales), constant(f"{name}.offsets", offsets)],
            name,
            domain=OPERATOR_DOMAIN,
            gated=int(is_gated),
        )  # fmt: skip

    def _rotation_size(self, name: str) -> int:
        return rotation_size(name, self.checkpoint.shape(f"{name}.weight")[1])


def pack_integers(rows: Int8Array) -> Int8Array:
    """Weights [outputs, inputs] as [outputs / 32, inputs / 4, 32, 4]."""
    return pack_columns(rows, 4)


def interleave(gate: NDArray[Any], up: NDArray[Any]) -> NDArray[Any]:
    """Rows of two arrays of one shape, 16 of the one and 16 of the other in turn."""
    blocks = [array.reshape(-1, BLOCK_COLUMNS // 2, *array.shape[1:]) for array in (gate, up)]
    return np.stack(blocks, axis=1).reshape(-1, *gate.shape[1:])
