"""Scores, their order, and what was cut by them, checked.

This shares no code with what wrote the rows.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pyarrow as pa

from shardrank.store.plan import MIN_SCORE, TOP_K, Plan
from shardrank.store.verify_cascade import Expected, check_cascade

Report = Callable[[str], None]


def check_scores(
    plan: Plan,
    fields: dict[str, Any],
    lists: Any,
    place: Any,
    expected: Expected | None,
    report: Report,
) -> None:
    """Pairs best first: scores finite, in order, ties by place, and score = sigmoid(log_odds)."""
    ours = plan.output_columns
    if expected is not None:
        check_cascade(fields, ours, expected, lists, place, report)
        chosen = np.flatnonzero(expected.chosen)
        fields = {name: fields[name].take(pa.array(chosen)) for name in (ours.log_odds, ours.score)}
        lists, place = lists[chosen], place[chosen]
    log_odds = fields[ours.log_odds].to_numpy(zero_copy_only=False).astype(np.float64)
    score = fields[ours.score].to_numpy(zero_copy_only=False)
    if not np.all(np.isfinite(log_odds)):
        report(f"a {ours.log_odds} is null or not finite")
        return
    if not np.allclose(score, 0.5 * (1.0 + np.tanh(0.5 * log_odds)), rtol=1e-9, atol=1e-15):
        report(f"a {ours.score} is not the sigmoid of its {ours.log_odds}")
    same_list = lists[1:] == lists[:-1]
    step = np.diff(log_odds)
    if np.any(same_list & ((step > 0) | ((step == 0) & (np.diff(place) < 0)))):
        report(f"a list is not ordered by {ours.log_odds}, ties in the input's order")
    min_score = plan.output_fields.get(MIN_SCORE)
    if min_score is not None and np.any(score < min_score):
        report(f"a {ours.score} is less than min_score = {min_score}")


def check_cuts(plan: Plan, out_sizes: Any, cut: Any, report: Report) -> None:
    """out_sizes, cut: int64 [L], of each list."""
    top_k, min_score = plan.output_fields.get(TOP_K), plan.output_fields.get(MIN_SCORE)
    if np.any(cut < 0):
        report("fewer than no candidates were cut")
    if top_k is not None and np.any(out_sizes > top_k):
        report(f"a list is longer than top_k = {top_k}")
    if min_score is None and np.any((cut > 0) & (out_sizes != (-1 if top_k is None else top_k))):
        report("candidates were cut that neither top_k nor min_score asked for")
