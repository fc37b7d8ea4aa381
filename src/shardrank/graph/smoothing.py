"""Scales that move what is hard to quantize from activations into weights, and back.

Follows SmoothQuant (Xiao et al., arXiv 2211.10438): channel c of a product's input is divided by
s_c and column c of its weights multiplied by it, which changes no product. Three things differ.
Activations and weights are measured against the scale that will quantize them (the token's, the
output's), so that one loud token or one loud output does not speak for all. The scales are powers
of two, which no rounding sees: in fp32 the smoothed graph gives the same bits. And the strength
is chosen for each product by its error on the sample, none included.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from shardrank.graph.product_group import ProductGroup
from shardrank.graph.quantize import LARGEST_INT8, SMALLEST_SCALE, quantize_rows
from shardrank.graph.rotation import rotate_values, rotate_weights, rotation_size
from shardrank.graph.weights import Checkpoint
from shardrank.types import Float32Array

# 0 evens out the weights alone, 1 the activations alone.
STRENGTHS = (0.25, 0.5, 0.75, 1.0)
# Powers of two beyond these would leave float32's normal range in extreme checkpoints.
_LARGEST_EXPONENT = 15
# Less is the luck of the sample.
_WORTHWHILE = 0.95


@dataclass(frozen=True, slots=True)
class Smoothing:
    """What was chosen for one group of products.

    strength: of STRENGTHS, or None for scales of one.
    scales: float32 [num_inputs], powers of two; the input is divided by them.
    error_before, error_after: rms error of the products in W8A8 over their rms, on the sample.
    """

    strength: float | None
    scales: Float32Array
    error_before: float
    error_after: float


class SmoothedCheckpoint(Checkpoint):
    """A checkpoint whose tensors are scaled while they are read; nothing else changes.

    factors: for a tensor's name, what its rows (values of a norm) and its columns are multiplied
        by; a missing one is 1. `fold_scales` makes them.
    """

    def __init__(
        self,
        folder: Path,
        rows: Mapping[str, Float32Array],
        columns: Mapping[str, Float32Array],
    ) -> None:
        super().__init__(folder)
        self._rows = rows
        self._columns = columns

    def read(self, name: str) -> Float32Array:
        """A whole tensor as float32 [*shape]."""
        values = super().read(name)
        if name in self._rows:
            values = values * self._rows[name].reshape(-1, *[1] * (values.ndim - 1))
        if name in self._columns:
            values = values * self._columns[name]
        return values

    def read_rows(self, name: str, start: int, stop: int) -> Float32Array:
        """Rows start to stop of a matrix as float32 [stop - start, columns]."""
        values = super().read_rows(name, start, stop)
        if name in self._rows:
            values = values * self._rows[name][start:stop, None]
        if name in self._columns:
            values = values * self._columns[name]
        return values


def smoothing_scales(
    activations: Float32Array,
    weights: Sequence[Float32Array],
    strength: float,
    heads: tuple[int, int, int],
) -> Float32Array:
    """Scales of a product's input, powers of two, float32 [num_inputs].

    activations: [num_tokens, num_inputs]; weights: [outputs, num_inputs] each; strength: from 0 to
    1; heads: as in ProductGroup: channels of heads that share a producer get the same scale.
    Channels that are zero throughout, in activations or weights, keep a scale of 1.
    """
    loudest = _shared(_relative_size(activations), heads)
    heaviest = _shared(np.max([_relative_size(rows) for rows in weights], axis=0), heads)
    is_used = (loudest > 0) & (heaviest > 0)
    exponents = np.zeros(loudest.shape, np.float64)
    exponents[is_used] = strength * np.log2(loudest[is_used]) - (1 - strength) * np.log2(
        heaviest[is_used]
    )
    # Only ratios between channels matter: a common factor would go into the token's scale.
    exponents[is_used] -= np.median(exponents[is_used]) if is_used.any() else 0
    rounded = np.rint(exponents).clip(-_LARGEST_EXPONENT, _LARGEST_EXPONENT)
    scales: Float32Array = np.exp2(rounded).astype(np.float32)
    return scales


def choose_smoothing(
    group: ProductGroup, activations: Float32Array, weights: Sequence[Float32Array]
) -> Smoothing:
    """The scales of the strength whose products, in W8A8, are nearest to those of fp32.

    activations: [num_tokens, num_inputs] of a sample; weights: of group.products, in order.
    """
    none = np.ones(group.num_inputs, np.float32)
    size = rotation_size(group.products[0], group.num_inputs)
    before = product_error(activations, weights, none, size)
    best = Smoothing(None, none, before, before)
    for strength in STRENGTHS:
        scales = smoothing_scales(activations, weights, strength, group.heads)
        if (scales == 1).all():
            continue
        error = product_error(activations, weights, scales, size)
        if error < min(best.error_after, _WORTHWHILE * before):
            best = Smoothing(strength, scales, before, error)
    return best


def product_error(
    activations: Float32Array,
    weights: Sequence[Float32Array],
    scales: Float32Array,
    block: int = 1,
) -> float:
    """Error of the products in W8A8, smoothed by these scales, over their size.

    block: channels that are rotated together before they are rounded (rotation.py).

    Each token's error is measured against its own product, so that loud tokens do not drown the
    others: the root of the mean over tokens of |error|^2 / |product|^2.
    """
    scaled = rotate_values(activations / scales, block)
    steps = np.abs(scaled).max(axis=1, keepdims=True) / np.float32(LARGEST_INT8)
    steps = np.maximum(steps, np.float32(SMALLEST_SCALE))
    rounded = np.rint(scaled / steps) * steps
    error = np.zeros(len(activations), np.float64)
    size = np.zeros(len(activations), np.float64)
    for rows in weights:
        integers, row_scales = quantize_rows(rotate_weights(rows * scales, block))
        exact = activations @ rows.T
        found = (rounded @ integers.T.astype(np.float32)) * row_scales
        error += np.square(found - exact, dtype=np.float64).sum(axis=1)
        size += np.square(exact, dtype=np.float64).sum(axis=1)
    is_loud = size > 0
    return float(np.sqrt(np.mean(error[is_loud] / size[is_loud]))) if is_loud.any() else 0.0


def fold_scales(
    groups: Sequence[ProductGroup], scales: Mapping[str, Float32Array]
) -> tuple[dict[str, Float32Array], dict[str, Float32Array]]:
    """What rows and columns of which tensors are multiplied by, by the tensor's name.

    scales: [num_inputs], by the name of the group; groups that are not there stay as they are.
    The producer of a group's input gives it divided by the scales, and its weights take them up.
    """
    rows: dict[str, Float32Array] = {}
    columns: dict[str, Float32Array] = {}
    for group in groups:
        if group.name in scales:
            num_sources, _, size = group.heads
            first = scales[group.name].reshape(group.heads)[:, 0]
            rows[group.producer] = np.float32(1) / first.reshape(num_sources * size)
            columns |= {f"{name}.weight": scales[group.name] for name in group.products}
    return rows, columns


def _relative_size(rows: Float32Array) -> Float32Array:
    """Root mean square of each column, rows scaled to a maximum of 1 first."""
    largest = np.maximum(np.abs(rows).max(axis=1, keepdims=True), np.float32(SMALLEST_SCALE))
    return np.asarray(np.sqrt(np.square(rows / largest).mean(axis=0)))


def _shared(values: Float32Array, heads: tuple[int, int, int]) -> Float32Array:
    """The largest among the heads that share a producer, given to each of them."""
    apart = values.reshape(heads)
    shared = apart.max(axis=1, keepdims=True)
    return np.broadcast_to(shared, heads).reshape(-1)
