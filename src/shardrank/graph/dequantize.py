"""Small integers back to float32: pure functions over the arrays that an export stores."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from shardrank.types import Float32Array


def dequantize_blocks(
    blocks: NDArray[np.uint8],
    scales: Float32Array,
    zero_points: NDArray[Any] | None,
    bits: int,
    num_inputs: int,
) -> Float32Array:
    """A weight of com.microsoft.MatMulNBits as float32 [inputs, outputs].

    blocks: uint8 [outputs, blocks, block_size x bits / 8], the first of the integers that share a
        byte in its lowest bits; what stands behind the last input is padding.
    scales: [outputs, blocks]. zero_points: packed as the blocks are, uint8
        [outputs, ceil(blocks x bits / 8)], or float32 [outputs, blocks]; None for 2^(bits - 1).
        Older exporters wrote both flat.
    """
    num_outputs, num_blocks, _ = blocks.shape
    integers = _unpack(blocks, bits).astype(np.float32)
    if zero_points is None:
        integers -= np.float32(1 << (bits - 1))
    else:
        points = zero_points.reshape(num_outputs, -1)
        if points.dtype == np.uint8:
            points = _unpack(points, bits)[:, :num_blocks]
        integers -= points.astype(np.float32)[:, :, None]
    integers *= scales.reshape(num_outputs, num_blocks)[:, :, None]
    return integers.reshape(num_outputs, -1)[:, :num_inputs].T


def dequantize_columns(
    integers: NDArray[Any], scales: Float32Array, zero_points: NDArray[Any] | None
) -> Float32Array:
    """A weight of MatMulInteger, [inputs, outputs], as float32.

    scales, zero_points: one number, or one for each column; None for 0.
    """
    # Differences of 8-bit integers need 9 bits, all of which float32 holds.
    values = integers.astype(np.float32)
    if zero_points is not None:
        values -= zero_points.astype(np.float32)
    values *= scales
    return values


def _unpack(packed: NDArray[np.uint8], bits: int) -> NDArray[np.uint8]:
    """[..., bytes] to [..., bytes x 8 / bits]."""
    if bits == 8:
        return packed
    shifts = np.arange(0, 8, bits, dtype=np.uint8)
    fields = (packed[..., None] >> shifts) & np.uint8((1 << bits) - 1)
    return fields.reshape(*packed.shape[:-1], -1)
