"""From logits to ranks. Pure functions over arrays."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from shardrank.types import Float32Array, Float64Array, Int32Array, Int64Array


def log_odds(logits: Float32Array) -> Float32Array:
    """yes - no of logits float32 [num_pairs, 2], as float32 [num_pairs]: what is ranked by."""
    return np.asarray(logits[:, 0] - logits[:, 1], np.float32)


def sigmoid(values: Float32Array | Float64Array) -> Float64Array:
    """The model card's score of log-odds, in float64; exact to the last bits at any size.

    softmax over (yes, no) is the sigmoid of their difference. Above about 37 it is 1.0, where
    log-odds still tell documents apart.
    """
    wide = np.asarray(values, np.float64)
    # exp of a negative number cannot overflow.
    small = np.exp(-np.abs(wide))
    return np.asarray(np.where(wide >= 0, 1.0, small) / (1.0 + small), np.float64)


def rank_order(values: Float32Array, row_ids: NDArray[np.integer]) -> tuple[Int64Array, Int32Array]:
    """Rank within each row, best first; equal values keep the order that they came in.

    values: float32 [num_pairs], finite. row_ids: integers [num_pairs], the row of each pair; pairs
    of a row need not be neighbours.

    Returns order, int64 [num_pairs], the pairs row by row (by row id) and best first in each; and
    ranks, int32 [num_pairs], from 1, of each pair in the order of the input.
    """
    order = np.lexsort((-values, row_ids)).astype(np.int64)
    sorted_rows = row_ids[order]
    row_starts = np.searchsorted(sorted_rows, sorted_rows, side="left")
    ranks = np.empty(len(order), np.int32)
    ranks[order] = np.arange(len(order)) - row_starts + 1
    return order, ranks
