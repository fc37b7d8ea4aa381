"""Counts of values in equal bins, added up piece by piece."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike

from shardrank.types import Float64Array, Int64Array


@dataclass(frozen=True, slots=True)
class Histogram:
    """How many values lie in each bin.

    edges: float64 [num_bins + 1]. counts: int64 [num_bins]; values outside of the edges are in the
    first or last bin. total: their sum as numbers, num: how many.
    """

    edges: Float64Array
    counts: Int64Array
    total: float = 0.0
    num: int = 0
    least: float = float("inf")
    most: float = float("-inf")

    @staticmethod
    def even(low: float, high: float, num_bins: int) -> Histogram:
        """An empty one with bins of one width."""
        return Histogram(np.linspace(low, high, num_bins + 1), np.zeros(num_bins, np.int64))

    @staticmethod
    def doubling(low: float, high: float, steps: int = 4) -> Histogram:
        """An empty one whose bins grow so that every `steps` of them double the value."""
        num = int(np.ceil(np.log2(high / low) * steps))
        return Histogram(low * 2.0 ** (np.arange(num + 1) / steps), np.zeros(num, np.int64))

    def add(self, values: ArrayLike) -> Histogram:
        """With more values, which are finite."""
        found = np.asarray(values, np.float64)
        if not found.size:
            return self
        places = np.searchsorted(self.edges, found, side="right") - 1
        places = np.clip(places, 0, len(self.counts) - 1)
        return Histogram(
            self.edges,
            self.counts + np.bincount(places, minlength=len(self.counts)),
            self.total + float(found.sum()),
            self.num + found.size,
            min(self.least, float(found.min())),
            max(self.most, float(found.max())),
        )

    @property
    def mean(self) -> float:
        """NaN where there are no values."""
        return self.total / self.num if self.num else float("nan")

    def quantile(self, part: float) -> float:
        """About where a part of the values lies below: exact to a bin; NaN where there are none."""
        if not self.num:
            return float("nan")
        below = np.concatenate([[0], np.cumsum(self.counts)]) / self.num
        return float(np.clip(np.interp(part, below, self.edges), self.least, self.most))

    def trimmed(self) -> Histogram:
        """Without the empty bins at both ends."""
        used = np.flatnonzero(self.counts)
        if not len(used):
            return self
        first, last = int(used[0]), int(used[-1]) + 1
        return Histogram(
            self.edges[first : last + 1],
            self.counts[first:last],
            self.total,
            self.num,
            self.least,
            self.most,
        )
