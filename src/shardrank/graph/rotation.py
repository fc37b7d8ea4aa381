"""Hadamard rotations, which spread a loud channel over its block before values are rounded.

Follows QuaRot (Ashkboos et al., arXiv 2404.00456), in blocks of 32: what goes into down_proj is a
product of two activations, with a few values far larger than the rest, and a token's scale follows
the largest. Both sides of the matrix product are rotated, so the product stays what it was.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from shardrank.types import Float32Array

# Operator, inputs and name of a node, to its output; name and values of a constant, to its name.
AppendNode = Callable[[str, Sequence[str], str], str]
AppendConstant = Callable[[str, NDArray[Any]], str]

# 64 would take twice the time and mend little more (docs/decisions/009-smoothing.md).
_LARGEST_BLOCK = 32
_ROTATED = "down_proj"


def rotation_size(name: str, num_inputs: int) -> int:
    """Channels that are rotated together in the input of this product; 1 for none.

    `block_size(num_inputs)` for down_proj.
    """
    return block_size(num_inputs) if name.endswith(_ROTATED) else 1


def block_size(num_inputs: int) -> int:
    """The largest power of two up to 32 that divides num_inputs."""
    return min(_LARGEST_BLOCK, num_inputs & -num_inputs)


def hadamard(size: int) -> Float32Array:
    """Sylvester's matrix, float32 [size, size] of 1 and -1; its square is size x identity."""
    matrix = np.ones((1, 1), np.float32)
    while len(matrix) < size:
        matrix = np.block([[matrix, matrix], [matrix, -matrix]])
    return matrix


def rotate_values(rows: Float32Array, size: int) -> Float32Array:
    """Each block of `size` columns times the matrix: [..., num_inputs] before and after."""
    if size == 1:
        return rows
    return np.asarray(rows.reshape(-1, size) @ hadamard(size)).reshape(rows.shape)


def rotate_weights(rows: Float32Array, size: int) -> Float32Array:
    """Weights [outputs, num_inputs] that undo `rotate_values`: exactly, but for rounding."""
    return rotate_values(rows, size) / np.float32(size)


def append_rotation(node: AppendNode, constant: AppendConstant, values: str, size: int) -> str:
    """Append the nodes of `rotate_values`; values float32 [..., num_inputs]."""
    if size == 1:
        return values
    blocks = constant(f"{values}.blocks", np.array([-1, size], np.int64))
    matrix = constant(f"{values}.hadamard", hadamard(size))
    shape = node("Shape", [values], f"{values}.shape")
    apart = node("Reshape", [values, blocks], f"{values}.apart")
    spread = node("MatMul", [apart, matrix], f"{values}.spread")
    return node("Reshape", [spread, shape], f"{values}.rotated")
