import numpy as np
import pyarrow as pa

from shardrank.report.scores import ScoreFacts
from shardrank.store.results import Ranked


def ranked(*queries: list[float]) -> Ranked:
    flat = [value for query in queries for value in query]
    pairs = pa.table(
        {
            "doc_id": [f"d{i}" for i in range(len(flat))],
            "log_odds": pa.array(flat, pa.float32()),
            "num_tokens": pa.array([100] * len(flat), pa.int32()),
            "truncated": [i == 0 for i in range(len(flat))],
        }
    )
    offsets = np.cumsum([0, *map(len, queries)])
    return Ranked(pa.table({"query_id": [f"q{i}" for i in range(len(queries))]}), pairs, offsets)


def test_pairs_are_counted_over_all_units() -> None:
    facts = ScoreFacts().add(ranked([3.0, 1.0], []), None).add(ranked([20.0, -13.0, -13.0]), None)
    assert (facts.num_pairs, facts.num_queries, facts.num_truncated) == (5, 3, 2)
    assert facts.num_saturated == 3
    assert (facts.top.num, facts.top.most) == (2, 20.0)


def test_ties_are_within_a_query_only() -> None:
    assert ScoreFacts().add(ranked([2.0, 1.0, 1.0], [1.0, 0.0]), None).num_tied == 2


def test_a_margin_is_from_a_positive_to_the_best_other() -> None:
    facts = ScoreFacts().add(ranked([5.0, 4.0, 1.0], [2.0]), [{"d1": 1, "d0": 0}, {"d3": 1}])
    assert (facts.num_judged, facts.num_below) == (1, 1)
    assert facts.margins.mean == -1.0


def test_nothing_at_all_is_no_error() -> None:
    assert ScoreFacts().add(ranked(), []).num_pairs == 0
