"""From a run to rows: ordered, cut, nothing lost, and the same from any order."""

from __future__ import annotations

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

from shardrank.store.gathered import build_rows, documents, order_run, to_nested, to_pairs

TEXT = pa.large_string()


def run(*rows: tuple[str, str, float]) -> pa.Table:
    queries, docs, scores = zip(*rows, strict=True)
    return pa.table(
        {"query_id": pa.array(queries, TEXT), "doc_id": pa.array(docs, TEXT), "score": scores}
    )


def ordered(table: pa.Table) -> list[tuple]:
    return list(
        zip(*table.select(["query_id", "doc_id", "place"]).to_pydict().values(), strict=True)
    )


def test_a_run_is_ordered_by_score_and_ties_stay_as_they_stand() -> None:
    found = order_run(run(("q", "z", 1.0), ("q", "b", 2.0), ("q", "a", 1.0)), None)
    assert ordered(found.table) == [("q", "b", 0), ("q", "z", 1), ("q", "a", 2)]


def test_top_k_is_of_each_query_and_the_rest_is_counted() -> None:
    rows = [(f"q{i % 3}", f"d{i}", float(-i)) for i in range(12)]
    found = order_run(run(*rows), 2)
    assert (found.table.num_rows, found.num_cut) == (6, 6)
    assert ordered(found.table)[:2] == [("q0", "d0", 0), ("q0", "d3", 1)]


def test_a_repeated_document_keeps_its_best_place() -> None:
    found = order_run(run(("q", "a", 1.0), ("q", "b", 3.0), ("q", "a", 2.0), ("p", "a", 1.0)), None)
    assert sorted(ordered(found.table)) == [("p", "a", 0), ("q", "a", 1), ("q", "b", 0)]
    assert found.num_repeated == 1


@given(
    st.lists(
        st.tuples(st.sampled_from("pqr"), st.sampled_from("abcde"), st.integers(0, 3).map(float)),
        min_size=1,
        max_size=40,
    ),
    st.none() | st.integers(1, 4),
)
def test_every_row_of_a_run_is_kept_cut_or_repeated(rows, top_k) -> None:
    found = order_run(run(*rows), top_k)
    assert found.table.num_rows + found.num_cut + found.num_repeated == len(rows)
    for query in {row[0] for row in rows}:
        places = [place for name, _, place in ordered(found.table) if name == query]
        assert places == list(range(len(places)))


QUERIES = pa.table({"query_id": ["p", "q"], "query": ["query p", "query q"], "lang": ["de", "en"]})
CANDIDATES = pa.table(
    {
        "query_id": pa.array(["q", "q", "p", "q", "r"], TEXT),
        "doc_id": pa.array(["a", "b", "a", "c", "a"], TEXT),
        "score": [3.0, 2.0, 1.0, 0.5, 9.0],
        "place": pa.array([0, 1, 0, 2, 0], pa.int64()),
        "text": pa.array(["A", None, "A", "C", "A"], TEXT),
    }
)


def test_rows_hold_what_goes_with_the_query_and_the_first_stages_score() -> None:
    rows, _ = build_rows(CANDIDATES, QUERIES)
    assert rows.to_pylist()[1] == {
        "query_id": "q",
        "query": "query q",
        "lang": "en",
        "candidates": [
            {"doc_id": "a", "text": "A", "first_stage_score": 3.0},
            {"doc_id": "c", "text": "C", "first_stage_score": 0.5},
        ],
    }


def test_what_is_missing_is_listed_with_its_reason() -> None:
    _, missing = build_rows(CANDIDATES, QUERIES)
    assert missing.to_pylist() == [
        {"query_id": "r", "doc_id": "a", "reason": "no_query"},
        {"query_id": "q", "doc_id": "b", "reason": "no_document"},
    ]


@given(st.permutations(range(5)))
def test_rows_do_not_depend_on_the_order_in_which_a_join_gives_them(order) -> None:
    shuffled = CANDIDATES.take(pa.array(order))
    assert build_rows(shuffled, QUERIES)[0].equals(build_rows(CANDIDATES, QUERIES)[0])


def test_a_document_that_the_corpus_has_twice_counts_once() -> None:
    twice = pa.concat_tables([CANDIDATES, CANDIDATES])
    assert build_rows(twice, QUERIES)[0].equals(build_rows(CANDIDATES, QUERIES)[0])


def test_pairs_are_the_nested_rows_taken_apart_and_together_again() -> None:
    nested, _ = build_rows(CANDIDATES, QUERIES)
    pairs, _ = build_rows(CANDIDATES, QUERIES, "pairs")
    assert to_pairs(nested, "candidates").to_pylist() == pairs.to_pylist()
    again = to_nested(pairs, "query_id", ["query_id", "query", "lang"], "candidates")
    assert again.to_pylist() == nested.to_pylist()


@pytest.mark.parametrize(
    ("keep_title", "texts"), [(False, ["T a", "b", "c"]), (True, ["a", "b", "c"])]
)
def test_a_title_stands_in_front_of_its_text_unless_it_is_kept(keep_title, texts) -> None:
    ids, titles = pa.array(["1", "2", "3"], TEXT), pa.array(["T", "", None], TEXT)
    table = documents(
        ids, pa.array(["a", "b", "c"], TEXT), titles, wanted=None, keep_title=keep_title
    )
    assert table.column("text").to_pylist() == texts
    assert ("title" in table.column_names) is keep_title


def test_only_documents_that_are_wanted_go_on() -> None:
    ids = pa.array(["1", None, "3"], TEXT)
    texts = pa.array(["a", "b", None], TEXT)
    found = documents(ids, texts, None, wanted=pa.array(["3"], TEXT), keep_title=False)
    assert found.to_pylist() == [{"doc_id": "3", "text": ""}]
    assert documents(ids, texts, None, wanted=None, keep_title=False).num_rows == 2


def test_no_rows_at_all_are_no_error() -> None:
    rows, missing = build_rows(CANDIDATES.slice(0, 0), QUERIES)
    assert (rows.num_rows, missing.num_rows) == (0, 0)
    assert np.array_equal(order_run(run(("q", "a", 1.0)), 1).table.column("place"), [0])
