"""Weights as small integers: pure functions from rows of float32 to integers and their scales.

Every row belongs to one output, so a large matrix may come in any number of pieces.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from shardrank.types import Float32Array

Int8Array = NDArray[np.int8]
UInt8Array = NDArray[np.uint8]

# -128 is left out, so that the range is symmetric.
LARGEST_INT8 = 127
# Far below every scale that matters, and far above those that cannot be divided by.
SMALLEST_SCALE = 1e-30


def quantize_rows(rows: Float32Array) -> tuple[Int8Array, Float32Array]:
    """One scale a row: int8 [outputs, inputs] and float32 [outputs], rows ~ integers x scale.

    Symmetric, rounded half to even; no scale is under SMALLEST_SCALE.
    """
    largest = np.abs(rows).max(axis=1)
    scales = np.maximum(largest / np.float32(LARGEST_INT8), np.float32(SMALLEST_SCALE))
    return np.rint(rows / scales[:, None]).astype(np.int8), scales


def quantize_blocks(
    rows: Float32Array, bits: int, block_size: int
) -> tuple[UInt8Array, Float32Array]:
    """One scale a block of a row, as com.microsoft.MatMulNBits takes them.

    rows: [outputs, inputs]; bits: 4 or 8. Returns uint8 [outputs, blocks, block_size x bits / 8]
    (two 4-bit values a byte, the first in its lower half) and float32 [outputs, blocks]. Integers
    stand for integer - 2^(bits - 1), times their scale.

    Bit for bit what onnxruntime's own quantizer gives (symmetric, QOperator): the value of the
    largest magnitude becomes -2^(bits - 1), so that no level is unused; halves are rounded up.
    """
    num_outputs, num_inputs = rows.shape
    num_blocks = -(-num_inputs // block_size)
    blocks = np.zeros((num_outputs, num_blocks * block_size), np.float32)
    blocks[:, :num_inputs] = rows
    blocks = blocks.reshape(num_outputs, num_blocks, block_size)
    low, high = blocks.min(axis=2), blocks.max(axis=2)
    half = 1 << (bits - 1)
    scales = np.where(high > -low, high, low) / np.float32(-half)
    is_empty = np.abs(scales) < SMALLEST_SCALE
    scales[is_empty] = 0
    # In place from here on: this is what the time of preparing goes into.
    blocks *= (np.float32(1) / np.where(is_empty, np.float32(1), scales))[:, :, None]
    blocks += np.float32(half)
    blocks += np.float32(0.5)
    np.floor(blocks, out=blocks)
    np.clip(blocks, 0, 2 * half - 1, out=blocks)
    integers = blocks.astype(np.uint8)
    if bits == 4:
        integers = integers[:, :, ::2] | np.left_shift(integers[:, :, 1::2], np.uint8(4))
    return integers, scales
