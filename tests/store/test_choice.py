"""Which candidates a cascade scores again, and where the others go."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

from shardrank.config import CascadeConfig, InputColumns, OutputColumns
from shardrank.errors import ConfigError
from shardrank.store.cascade import check_cascade, choose
from shardrank.store.footers import Footer
from shardrank.store.output import Output, build_output
from shardrank.store.unit_table import UnitTable
from shardrank.types import Layout
from store.small_job import SHARD, unit_of

SECOND = OutputColumns().under("second_")
CANDIDATE = pa.struct(
    [
        ("doc_id", pa.string()),
        ("text", pa.string()),
        ("rank", pa.int32()),
        ("score", pa.float64()),
        ("log_odds", pa.float32()),
    ]
)
ranks = st.none() | st.integers(1, 5)
values = st.none() | st.sampled_from([-2.0, -0.5, 0.0, 0.5, 2.0])
lists = st.lists(st.lists(st.tuples(ranks, values), max_size=5), max_size=4)
conditions = st.fixed_dictionaries(
    {},
    optional={
        "top_k": st.integers(1, 4),
        "min_log_odds": st.sampled_from([-1.0, 0.0]),
        "max_log_odds": st.sampled_from([0.0, 1.0]),
    },
).filter(bool)


def candidate(number: int, rank: int | None, log_odds: float | None) -> dict[str, Any]:
    score = None if log_odds is None else 1 / (1 + math.exp(-log_odds))
    about = {"rank": rank, "score": score, "log_odds": log_odds}
    return {"doc_id": f"d{number}", "text": f"text {number}", **about}


def unit(rows: list[list[tuple[int | None, float | None]]], layout: Layout) -> UnitTable:
    queries = [
        [candidate(10 * query + place, *about) for place, about in enumerate(row)]
        for query, row in enumerate(rows)
    ]
    if layout == "nested":
        table = pa.table(
            {
                "query_id": [f"q{query}" for query in range(len(rows))],
                "query": ["query"] * len(rows),
                "candidates": pa.array(queries, pa.list_(CANDIDATE)),
            }
        )
        return unit_of(table.cast(table.schema.set(0, pa.field("query_id", pa.string()))))
    flat = [
        {"query_id": f"q{query}", "query": "query", **found}
        for query, row in enumerate(queries)
        for found in row
    ]
    schema = pa.schema([("query_id", pa.string()), ("query", pa.string()), *CANDIDATE])
    return unit_of(pa.Table.from_pylist(flat, schema), "pairs")


def build(unit_table: UnitTable, cascade: CascadeConfig, scores: list[float]) -> Output:
    num_pairs = unit_table.num_pairs
    choice = choose(unit_table, cascade)
    return build_output(
        unit_table,
        np.where(choice.is_chosen, scores, np.nan).astype(np.float32),
        np.arange(num_pairs, dtype=np.int32),
        np.zeros(num_pairs, np.bool_),
        columns=SECOND,
        top_k=None,
        min_score=None,
        choice=choice,
    )


def oracle(
    row: list[tuple[int | None, float | None]], scores: list[float], wanted: dict[str, Any]
) -> tuple[list[int], list[int]]:
    """The places of a list that are scored again, best first, and those of the rest."""

    def meets(rank: int | None, log_odds: float | None) -> bool:
        if "top_k" in wanted and (rank is None or rank > wanted["top_k"]):
            return False
        if not {"min_log_odds", "max_log_odds"} & wanted.keys():
            return True
        least = wanted.get("min_log_odds", -math.inf)
        most = wanted.get("max_log_odds", math.inf)
        return log_odds is not None and least <= log_odds <= most

    chosen = [place for place, about in enumerate(row) if meets(*about)]
    rest = [place for place in range(len(row)) if place not in chosen]
    old = [math.inf if rank is None else rank for rank, _ in row]
    return (
        sorted(chosen, key=lambda place: (-scores[place], place)),
        sorted(rest, key=lambda place: (old[place], place)),
    )


@given(rows=lists, wanted=conditions, data=st.data())
@pytest.mark.parametrize("layout", ["nested", "pairs"])
def test_those_scored_again_come_first_and_the_rest_in_their_old_order(
    layout: Layout, rows: list[Any], wanted: dict[str, Any], data: st.DataObject
) -> None:
    rows = [row for row in rows if row] if layout == "pairs" else rows
    unit_table = unit(rows, layout)
    scores = data.draw(
        st.lists(
            st.sampled_from([-1.0, 0.0, 1.0]),
            min_size=unit_table.num_pairs,
            max_size=unit_table.num_pairs,
        )
    )
    output = build(unit_table, CascadeConfig(**wanted), scores)
    num_chosen = 0
    found = output.table.to_pylist()
    if layout == "pairs":
        found = [
            {
                "candidates": sorted(
                    (c for c in found if c["query_id"] == f"q{query}"),
                    key=lambda c: c["second_rank"],
                )
            }
            for query in range(len(rows))
        ]
    for row, result in zip(rows, found, strict=True):
        own, scores = scores[: len(row)], scores[len(row) :]
        chosen, rest = oracle(row, own, wanted)
        num_chosen += len(chosen)
        candidates = result["candidates"]
        assert [c["second_position"] for c in candidates] == chosen + rest
        assert [c["second_rank"] for c in candidates] == list(range(1, len(row) + 1))
        assert [c["second_log_odds"] for c in candidates] == [
            *(own[place] for place in chosen),
            *(None for _ in rest),
        ]
        for name in ("second_score", "second_num_tokens", "second_truncated"):
            assert [c[name] is None for c in candidates] == [False] * len(chosen) + [True] * len(
                rest
            )
        assert [c["rank"] for c in candidates] == [row[place][0] for place in chosen + rest]
    assert output.counts.pairs_passed_over == output.counts.pairs_out - num_chosen
    assert output.counts.balanced


def test_bounds_are_inclusive_and_may_be_on_the_score() -> None:
    unit_table = unit([[(1, 0.5), (2, 0.0), (3, -0.5), (4, None)]], "nested")
    assert choose(unit_table, CascadeConfig(min_score=0.5)).is_chosen.tolist() == [1, 1, 0, 0]
    band = CascadeConfig(min_score=0.4, max_score=0.5)
    assert choose(unit_table, band).is_chosen.tolist() == [0, 1, 0, 0]
    both = CascadeConfig(top_k=1, max_log_odds=0.5)
    assert choose(unit_table, both).is_chosen.tolist() == [1, 0, 0, 0]


def test_a_score_that_is_not_finite_is_rejected_only_where_one_was_asked_for() -> None:
    unit_table = unit([[(1, 0.5), (2, 0.0)]], "nested")
    output = build(unit_table, CascadeConfig(top_k=1), [math.inf, math.inf])
    assert [(r.position, r.code) for r in output.rejections] == [(0, "not_finite")]
    assert [c["doc_id"] for c in output.table.to_pylist()[0]["candidates"]] == ["d1"]


def footer(layout: Layout, rank: pa.DataType) -> Footer:
    about = [("doc_id", pa.string()), ("text", pa.string()), ("rank", rank)]
    names = [("query_id", pa.string()), ("query", pa.string())]
    if layout == "nested":
        return Footer(SHARD, schema=pa.schema([*names, ("candidates", pa.list_(pa.struct(about)))]))
    return Footer(SHARD, schema=pa.schema([*names, *about]))


@pytest.mark.parametrize("layout", ["nested", "pairs"])
def test_columns_that_the_conditions_need_must_be_there_and_be_numbers(layout: Layout) -> None:
    def check(data_type: pa.DataType, /, **wanted: Any) -> None:
        check_cascade([footer(layout, data_type)], layout, InputColumns(), CascadeConfig(**wanted))

    check(pa.int64(), top_k=1)
    check(pa.float32(), top_k=1)
    with pytest.raises(ConfigError, match=r"cascade\.rank = 'rank', which is string"):
        check(pa.string(), top_k=1)
    with pytest.raises(ConfigError, match=r"cascade\.rank = 'place', but shard a\.parquet says"):
        check(pa.int64(), top_k=1, rank="place")
    with pytest.raises(ConfigError, match=r"cascade\.score = 'score'"):
        check(pa.int64(), max_score=0.5)
