"""Ranking and cutting, against a plain Python oracle, and what must never happen to a row."""

import math
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

from shardrank.config import InputColumns, OutputColumns
from shardrank.store.output import Output, build_output
from shardrank.store.unit_table import UnitTable
from shardrank.types import Rejection, Unit
from store.small_job import SHARD, nested, outcome, pairs, unit_of

log_odds = st.sampled_from([-2.0, -0.5, -0.0, 0.0, 0.5, 3.0, math.nan, math.inf, -90.0])
cuts = {"top_k": st.none() | st.integers(1, 4), "min_score": st.none() | st.floats(0, 1)}


def build(unit_table: UnitTable, scores: list[float], extra: Any = (), **cut: Any) -> Output:
    num_pairs = unit_table.num_pairs
    return build_output(
        unit_table,
        np.array(scores, np.float32),
        np.arange(num_pairs, dtype=np.int32),
        np.zeros(num_pairs, np.bool_),
        extra,
        columns=OutputColumns(),
        top_k=cut.get("top_k"),
        min_score=cut.get("min_score"),
    )


def probability(score: float) -> float:
    return 1 / (1 + math.exp(-score))


def oracle(
    scores: list[tuple[int, float]], top_k: int | None, min_score: float | None
) -> list[int]:
    """Positions that are kept of one list, best first."""
    order = sorted(scores, key=lambda pair: (-pair[1], pair[0]))[:top_k]
    return [p for p, score in order if min_score is None or probability(score) >= min_score]


@given(data=st.data(), lists=st.lists(st.lists(log_odds, max_size=5), max_size=5), **cuts)
def test_lists_are_ranked_and_cut_as_in_plain_python(
    data: st.DataObject, lists: list[list[float]], top_k: int | None, min_score: float | None
) -> None:
    texts = [[data.draw(st.sampled_from(["t", "", None])) for _ in row] for row in lists]
    queries = data.draw(
        st.lists(st.sampled_from(["q", None, " "]), min_size=len(lists), max_size=len(lists))
    )
    table = nested(*texts, query=pa.array(queries, pa.string()))
    output = build(
        unit_of(table), [s for row in lists for s in row], top_k=top_k, min_score=min_score
    )
    expected = []
    for row, query in enumerate(queries):
        if query != "q":
            continue
        usable = [
            (p, s)
            for p, s in enumerate(lists[row])
            if texts[row][p] is not None and math.isfinite(s)
        ]
        kept = oracle(usable, top_k, min_score)
        expected.append((f"q{row}", kept, len(usable) - len(kept), len(lists[row]) - len(usable)))
    assert expected == [
        (
            row["query_id"],
            [c["position"] for c in row["candidates"]],
            row["num_cut"],
            row["num_rejected"],
        )
        for row in output.table.to_pylist()
    ]
    for row in output.table.to_pylist():
        for rank, candidate in enumerate(row["candidates"], 1):
            assert candidate["rank"] == rank
            assert candidate["score"] == pytest.approx(
                probability(candidate["log_odds"]), rel=1e-12
            )
            assert candidate["doc_id"] == f"{row['query_id']}d{candidate['position']}"
    assert output.counts.balanced
    assert output.counts.pairs_in == sum(map(len, lists))


@given(rows=st.lists(st.tuples(st.sampled_from("abc"), log_odds), max_size=12), **cuts)
def test_pairs_are_ranked_within_their_query_and_keep_their_order(
    rows: list[tuple[str, float]], top_k: int | None, min_score: float | None
) -> None:
    rows = sorted(rows, key=lambda row: row[0])
    table = pairs([query for query, _ in rows])
    output = build(unit_of(table, "pairs"), [s for _, s in rows], top_k=top_k, min_score=min_score)
    kept, ranks = [], {}
    for query in "abc":
        usable = [(i, s) for i, (q, s) in enumerate(rows) if q == query and math.isfinite(s)]
        ranks |= {i: rank for rank, i in enumerate(oracle(usable, None, None), 1)}
        kept += oracle(usable, top_k, min_score)
    assert output.table.column("doc_id").to_pylist() == [f"d{i}" for i in sorted(kept)]
    assert output.table.column("rank").to_pylist() == [ranks[i] for i in sorted(kept)]
    assert output.counts.balanced
    assert output.counts.rows_cut == output.counts.pairs_cut


def test_ties_keep_the_order_of_the_input() -> None:
    output = build(unit_of(nested(["a", "b", "c", "d"])), [0.0, 1.0, -0.0, 1.0])
    assert [c["position"] for c in output.table["candidates"][0].as_py()] == [1, 3, 0, 2]


def test_scores_do_not_overflow_at_either_end() -> None:
    output = build(unit_of(nested(["a", "b"])), [3e38, -3e38])
    assert [c["score"] for c in output.table["candidates"][0].as_py()] == [1.0, 0.0]


def test_a_score_that_is_not_finite_is_a_rejection() -> None:
    output = build(unit_of(nested(["a", "b"])), [math.nan, 1.0])
    assert [(r.position, r.code) for r in output.rejections] == [(0, "not_finite")]
    assert output.table["num_rejected"].to_pylist() == [1]


def test_a_pair_rejected_before_is_not_rejected_again() -> None:
    output = build(unit_of(nested([None, "b"])), [math.nan, 1.0])
    assert [r.code for r in output.rejections] == ["null_text"]


def test_a_row_rejected_later_takes_its_rejected_candidates_along() -> None:
    unit_table = unit_of(nested(["a", None, "c"], ["d"]))
    extra = [unit_table.reject_row(0, "query_too_long", "too long")]
    output = build(unit_table, [math.nan, math.nan, math.nan, 1.0], extra)
    assert [(r.row, r.position, r.code, r.num_pairs) for r in output.rejections] == [
        (0, None, "query_too_long", 3)
    ]
    assert output.table["query_id"].to_pylist() == ["q1"]
    assert output.counts.balanced


def test_the_same_place_is_rejected_once() -> None:
    unit_table = unit_of(nested(["a"]))
    extra = [unit_table.reject_pair(0, "worker_died", "m")] * 2
    output = build(unit_table, [1.0], extra)
    assert output.counts.pairs_rejected == 1


def test_rejections_count_rows_of_the_shard() -> None:
    unit = Unit(1, SHARD, 100, 102, None)
    unit_table = UnitTable.of(unit, "nested", InputColumns(), 99, nested(["a"], ["b", "c"]))
    extra = [Rejection(101, 1, "worker_died", "m", 1)]
    output = build(unit_table, [1.0, 2.0, 3.0], extra)
    assert [len(row) for row in output.table["candidates"].to_pylist()] == [1, 1]
    assert output.rejections[0].row == 101


def test_a_row_without_candidates_is_a_row_out_with_an_empty_list() -> None:
    output = outcome(unit_of(nested(None, [], [None])))
    assert output.table["candidates"].to_pylist() == [[], [], []]


def test_other_columns_and_fields_pass_through_in_their_place() -> None:
    fields = pa.struct([("rank1", pa.float32()), ("text", pa.string()), ("doc_id", pa.string())])
    lists = pa.array([[{"rank1": 0.5, "text": "a", "doc_id": "d"}]], pa.list_(fields))
    table = nested([], candidates=lists, lang=["en"], more=pa.array([[1, None]]))
    output = outcome(unit_of(table)).table
    ours = ["log_odds", "score", "rank", "position", "num_tokens", "truncated"]
    assert output.column_names == [*table.column_names, "num_cut", "num_rejected"]
    names = [field.name for field in output.schema.field("candidates").type.value_type]
    assert names == ["rank1", "text", "doc_id", *ours]
    assert output["more"].to_pylist() == [[1, None]]
    assert output["candidates"][0].as_py()[0]["rank1"] == 0.5


def test_our_columns_have_the_names_that_were_given() -> None:
    unit_table = unit_of(pairs(["a"]), "pairs")
    columns = OutputColumns(score="rerank_score", rank="rerank_rank")
    zeros = np.zeros(1, np.int32)
    output = build_output(
        unit_table,
        np.ones(1, np.float32),
        zeros,
        zeros > 0,
        columns=columns,
        top_k=None,
        min_score=None,
    )
    assert output.table.column_names[4:7] == ["log_odds", "rerank_score", "rerank_rank"]


def test_a_query_whose_rows_do_not_stand_together_has_no_ranks() -> None:
    unit = Unit(0, SHARD, 0, 3, 3)
    split_ids = pa.array([b"a"], pa.large_binary())
    table = pairs(["a", "b", "a"])
    unit_table = UnitTable.of(unit, "pairs", InputColumns(), 99, table, split_ids)
    output = outcome(unit_table).table
    assert output["rank"].to_pylist() == [None, 1, None]
    assert output["position"].to_pylist() == [None, 0, None]
    assert output["score"].null_count == 0


def test_an_empty_unit_has_the_columns_of_any_other() -> None:
    for table, layout in ((nested(["a"]), "nested"), (pairs(["a"]), "pairs")):
        full = outcome(unit_of(table, layout)).table
        empty = outcome(unit_of(table.slice(0, 0), layout)).table
        assert empty.schema == full.schema
