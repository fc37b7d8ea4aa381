"""The precisions that a graph can be built in."""

from __future__ import annotations

from typing import Any

import ml_dtypes
import numpy as np

from shardrank.errors import ModelError
from shardrank.graph.block_linear import BlockLinear
from shardrank.graph.float_linear import FloatLinear
from shardrank.graph.half_linear import HalfLinear
from shardrank.graph.integer_linear import IntegerLinear
from shardrank.graph.linear import Linear
from shardrank.graph.mixed_linear import MixedLinear
from shardrank.graph.token_linear import TokenLinear
from shardrank.graph.weights import Checkpoint
from shardrank.graph.writer import GraphWriter

PRECISIONS = ("w8a8", "fp32", "int8", "int4", "fp16", "bf16")

_FLOAT_TYPES: dict[str, np.dtype[Any]] = {
    "fp32": np.dtype(np.float32),
    "fp16": np.dtype(np.float16),
    "bf16": np.dtype(ml_dtypes.bfloat16),
}
_BITS = {"int8": 8, "int4": 4}
_BLOCK_SIZES = (16, 32, 64, 128, 256)
_DEFAULT_BLOCK_SIZE = 32


def activation_type(precision: str) -> np.dtype[Any]:
    """The type of what flows between the matrix products: float32 unless it is named."""
    return _FLOAT_TYPES.get(precision, _FLOAT_TYPES["fp32"])


def choose_block_size(precision: str, asked: int | None) -> int | None:
    """Inputs that share a scale: as asked, else 32; None for a precision without blocks.

    Raises ModelError if a precision without blocks was given one, or one that is not available.
    """
    if precision not in _BITS:
        if asked is not None:
            raise ModelError(
                f"block size {asked} was asked for with precision {precision!r}, which has no "
                f"blocks; leave it out, or choose the precision int8 or int4."
            )
        return None
    if asked is not None and asked not in _BLOCK_SIZES:
        raise ModelError(
            f"block size {asked} is not available; choose {', '.join(map(str, _BLOCK_SIZES))}."
        )
    return asked or _DEFAULT_BLOCK_SIZE


def is_batch_dependent(precision: str, block_size: int | None) -> bool:
    """True where a kernel may round a row otherwise among other rows.

    So it is with large blocks (block_linear.BlockLinear), and in half precision: a GPU chooses the
    kernel of a product by its number of rows.
    """
    if block_size is not None:
        return block_size > _DEFAULT_BLOCK_SIZE
    return activation_type(precision) != np.float32


def make_linear(
    precision: str,
    block_size: int | None,
    writer: GraphWriter,
    checkpoint: Checkpoint,
    kept: frozenset[str] = frozenset(),
    *,
    is_fused: bool = False,
) -> Linear:
    """The matrix products of a precision; block_size as `choose_block_size` gives it.

    kept: products of w8a8 that stay in fp32 (bfloat16 if fused), by name without ".weight". int8
        in blocks of 32 would cost two thirds of fp32's time and mend little
        (docs/decisions/009-smoothing.md).
    is_fused: whether the layout has the operators of CPUs (graph.layout.Layout).
    """
    if precision in _FLOAT_TYPES:
        return FloatLinear(writer, checkpoint, _FLOAT_TYPES[precision])
    if block_size is not None:
        return BlockLinear(writer, checkpoint, _BITS[precision], block_size)
    if is_fused:
        usual, higher = IntegerLinear(writer, checkpoint), HalfLinear(writer, checkpoint)
        return MixedLinear(usual, higher, kept) if kept else usual
    tokens = TokenLinear(writer, checkpoint)
    if not kept:
        return tokens
    return MixedLinear(tokens, FloatLinear(writer, checkpoint, _FLOAT_TYPES["fp32"]), kept)
