"""From a speed to hours and money. Pure functions over arrays."""

from __future__ import annotations

import heapq
from dataclasses import dataclass

import numpy as np

from shardrank.types import Float64Array

_MOST_SCHEDULED = 100_000
"""Units beyond which the last one no longer matters."""


@dataclass(frozen=True, slots=True)
class Speed:
    """What one actor does.

    pairs_per_second, tokens_per_second: scoring, with nothing beside it.
    host_seconds_per_pair: of one core, for tokenizing, ranking and writing.
    host_seconds_per_unit: of one core, whatever the unit holds.
    """

    pairs_per_second: float
    tokens_per_second: float
    host_seconds_per_pair: float = 0.0
    host_seconds_per_unit: float = 0.0


def forecast(
    unit_pairs: Float64Array,
    speed: Speed,
    *,
    num_actors: int,
    threads: int,
    shares_cores: bool,
) -> float:
    """Seconds until all units are done, the start of the cluster left out.

    unit_pairs: float64 [num_units]. threads: cores that an actor computes on.
    shares_cores: actors compute on the cores that also tokenize and write (CPU); where they do not
        (a GPU of their own), the slower of the two decides.
    """
    score = unit_pairs / speed.pairs_per_second
    host = unit_pairs * speed.host_seconds_per_pair + speed.host_seconds_per_unit
    if shares_cores:
        return makespan(score + host / threads, num_actors)
    return max(makespan(score, num_actors), float(host.sum()) / (threads * num_actors))


def makespan(seconds: Float64Array, num_actors: int) -> float:
    """When the last actor ends, if each takes the longest unit that is left; float64 [num_units].

    >>> makespan(np.array([3.0, 2.0, 2.0]), 2)
    4.0
    """
    if len(seconds) == 0:
        return 0.0
    longest = float(seconds.max())
    if len(seconds) > _MOST_SCHEDULED:
        return float(seconds.sum()) / num_actors + longest * (1 - 1 / num_actors)
    ends = [0.0] * num_actors
    for value in np.sort(seconds)[::-1].tolist():
        heapq.heapreplace(ends, ends[0] + value)
    return max(ends)
