"""A cascade's output, checked: who was to be scored again, who has a score, and who stands where.

This shares no code with what wrote the rows.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from shardrank.store.plan import Plan


@dataclass(frozen=True, slots=True)
class Expected:
    """What the input says of the pairs of an output, in the output's order.

    chosen: bool [N]. old: float64 [N], the earlier rank, infinite where there is none.
    """

    chosen: Any
    old: Any

    def take(self, places: Any) -> Expected:
        """Of some of the pairs."""
        return Expected(self.chosen[places], self.old[places])


def expected_of(plan: Plan, columns: Mapping[str, Any], pairs: Any) -> Expected | None:
    """Read the conditions off the plan, and the input's columns; None where there is no cascade.

    columns: what the input says of its pairs. pairs: int64 [N], the input's pair of each.
    """
    settings = {
        name.removeprefix("cascade."): value
        for name, value in plan.output_fields.items()
        if name.startswith("cascade.")
    }
    if not settings:
        return None
    bounds = [
        (settings["rank"], None, settings["top_k"]),
        (settings["score"], settings["min_score"], settings["max_score"]),
        (settings["log_odds"], settings["min_log_odds"], settings["max_log_odds"]),
    ]
    chosen = np.ones(len(pairs), np.bool_)
    for name, least, most in bounds:
        if least is None and most is None:
            continue
        values = _taken(columns, name, pairs)
        chosen &= np.array(
            [
                value is not None
                and (least is None or value >= least)
                and (most is None or value <= most)
                for value in values
            ],
            np.bool_,
        )
    ranks = _taken(columns, settings["rank"], pairs)
    old = np.array(
        [math.inf if rank is None or math.isnan(rank) else float(rank) for rank in ranks],
        np.float64,
    )
    return Expected(chosen, old)


def _taken(columns: Mapping[str, Any], name: str, pairs: Any) -> list[Any]:
    if name not in columns:
        return [None] * len(pairs)
    values = columns[name].to_pylist()
    return [values[pair] for pair in pairs.tolist()]


def check_cascade(
    fields: Mapping[str, Any],
    names: Any,
    expected: Expected,
    lists: Any,
    place: Any,
    report: Callable[[str], None],
) -> None:
    """Pairs best first: scored where and only where they were chosen, and these first.

    fields: of the output; names: its OutputColumns. lists, place: int64 [N], the list of each
    pair, and its place in the input's list.
    """
    for key in ("log_odds", "score", "num_tokens", "truncated"):
        name = getattr(names, key)
        is_null = fields[name].is_null().to_numpy(zero_copy_only=False)
        if np.any(is_null == expected.chosen):
            report(f"{name} is not there exactly where the cascade was to score again")
            return
    together = lists[1:] == lists[:-1]
    first, second = expected.chosen[:-1], expected.chosen[1:]
    if np.any(together & second & ~first):
        report("a candidate that was not scored again stands before one that was")
    with np.errstate(invalid="ignore"):
        step = np.diff(expected.old)
    step[np.isnan(step)] = 0  # both without a rank
    rest = together & ~first & ~second
    if np.any(rest & ((step < 0) | ((step == 0) & (np.diff(place) < 0)))):
        report("candidates that were not scored again are not in their old order")
