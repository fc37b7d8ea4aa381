"""One query's documents: which are positives, which negatives."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass

import numpy as np

from shardrank.labels.rules import LabelRules
from shardrank.types import BoolArray, Float32Array, Float64Array, Int64Array

_NONE = np.zeros(0, np.int64)


@dataclass(frozen=True, slots=True)
class Selection:
    """Places in the ranking, from 0, each best first: int64 [num_positives], [num_negatives].

    num_eligible: negatives that the rules allow, before sampling.
    """

    positives: Int64Array
    negatives: Int64Array
    num_eligible: int


def select(
    log_odds: Float32Array,
    scores: Float64Array,
    is_positive: BoolArray,
    may_be_negative: BoolArray,
    rules: LabelRules,
    key: str,
) -> Selection:
    """Choose by the rules.

    log_odds, scores: [N], best first, so that place i has rank i + 1. is_positive,
    may_be_negative: bool [N]. key: the query's id, which with the seed decides the sampling.
    """
    positives = np.flatnonzero(is_positive)[: rules.max_positives].astype(np.int64)
    if not len(positives):
        return Selection(_NONE, _NONE, 0)
    eligible = may_be_negative & ~is_positive
    ranks = np.arange(1, len(log_odds) + 1)
    eligible &= ranks >= rules.rank_from
    if rules.rank_to is not None:
        eligible &= ranks <= rules.rank_to
    worst = positives[-1]
    if rules.margin is not None:
        # In float64: a float32 difference would round a margin that is just met.
        eligible &= log_odds.astype(np.float64) <= float(log_odds[worst]) - rules.margin
    if rules.relative_margin is not None:
        eligible &= scores <= scores[worst] * (1.0 - rules.relative_margin)
    if rules.max_negative_score is not None:
        eligible &= scores <= rules.max_negative_score
    places = np.flatnonzero(eligible).astype(np.int64)
    taken = _sample(places, log_odds, rules, key)
    return Selection(positives, taken, len(places))


def _sample(places: Int64Array, log_odds: Float32Array, rules: LabelRules, key: str) -> Int64Array:
    number = rules.num_negatives
    if number is None or len(places) <= number:
        return places
    if rules.sampling == "top":
        return places[:number]
    shuffled = _shuffled(places, rules.seed, key)
    if rules.sampling == "random":
        return np.sort(shuffled[:number])
    # One pass takes at most one of each range, so that a full range cannot crowd out others.
    low, high = float(log_odds[places].min()), float(log_odds[places].max())
    width = (high - low) / number or 1.0
    ranges = np.minimum((log_odds[shuffled].astype(np.float64) - low) // width, number - 1)
    by_range = np.argsort(ranges, kind="stable")
    starts = np.searchsorted(ranges[by_range], ranges[by_range], side="left")
    turn = np.empty(len(places), np.int64)
    turn[by_range] = np.arange(len(places)) - starts
    # Within a turn the higher ranges first: hard negatives are worth more than easy ones.
    order = np.lexsort((-ranges, turn))
    return np.sort(shuffled[order[:number]])


def _shuffled(places: Int64Array, seed: int, key: str) -> Int64Array:
    """The places in an order that the seed and the key decide.

    By hashes, not by numpy's generators: their streams may change from version to version.
    """
    prefix = f"{seed}\0{key}\0".encode("utf-8", "surrogatepass")
    digests = [
        hashlib.blake2b(prefix + str(place).encode(), digest_size=8).digest()
        for place in places.tolist()
    ]
    return places[sorted(range(len(places)), key=digests.__getitem__)]
