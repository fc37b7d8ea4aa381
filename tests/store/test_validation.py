"""A bad row costs a row, a bad candidate a candidate, and every type of column is read."""

from typing import Any

import numpy as np
import pyarrow as pa
import pytest

from shardrank.config import InputColumns
from shardrank.store.unit_table import UnitTable
from shardrank.types import Unit
from store.small_job import CANDIDATE, SHARD, nested, pairs, unit_of

INVALID = b"\xff\xfe"
SURROGATE = b"\xed\xa0\x80"


def raw(*values: bytes | None) -> pa.Array:
    """A text column whose bytes nobody has looked at."""
    return pa.array(values, pa.binary()).view(pa.string())


def rejected(unit_table: UnitTable) -> list[tuple[int, int | None, str, int]]:
    return [(r.row, r.position, r.code, r.num_pairs) for r in unit_table.rejections]


def candidates_of(doc_ids: pa.Array, texts: pa.Array, lengths: list[int]) -> pa.Array:
    structs = pa.StructArray.from_arrays([doc_ids, texts], ["doc_id", "text"])
    return pa.ListArray.from_arrays(pa.array(np.cumsum([0, *lengths]), pa.int32()), structs)


def test_pairs_follow_rows_and_positions() -> None:
    unit_table = unit_of(nested(["a", "b"], [], ["c"]))
    assert unit_table.texts == ["a", "b", "c"]
    assert unit_table.row_of_pair.tolist() == [0, 0, 2]
    assert unit_table.position.tolist() == [0, 1, 0]
    assert [unit_table.queries[i] for i in unit_table.query_index] == [
        "query 0",
        "query 0",
        "query 2",
    ]
    assert unit_table.rejections == ()


def test_a_null_or_empty_list_is_a_row_without_pairs() -> None:
    unit_table = unit_of(nested(None, []))
    assert unit_table.row_ok.tolist() == [True, True]
    assert unit_table.num_pairs == 0


@pytest.mark.parametrize(
    ("query", "code"),
    [
        (None, "null_query"),
        (b"", "empty_query"),
        (" \t\n　".encode(), "empty_query"),
        (INVALID, "invalid_utf8"),
        (SURROGATE, "invalid_utf8"),
        (b"x" * 1001, "too_many_bytes"),
    ],
)
def test_a_bad_query_takes_its_row_and_all_its_pairs(query: bytes | None, code: str) -> None:
    table = nested(["a"], ["b", None], ["c"], query=raw(b"good", query, b"good"))
    unit_table = unit_of(table)
    assert rejected(unit_table) == [(1, None, code, 2)]
    assert unit_table.row_ok.tolist() == [True, False, True]
    assert unit_table.pair_ok.tolist() == [True, False, False, True]
    assert unit_table.rejections[0].query_id == "q1"


@pytest.mark.parametrize(
    ("text", "code"),
    [
        (None, "null_text"),
        (INVALID, "invalid_utf8"),
        (SURROGATE, "invalid_utf8"),
        (b"x" * 1001, "too_many_bytes"),
    ],
)
def test_a_bad_text_costs_its_candidate(text: bytes | None, code: str) -> None:
    lists = candidates_of(pa.array(["a", "b", "c"]), raw(b"1", text, b"3"), [1, 2])
    unit_table = unit_of(nested([], [], candidates=lists))
    assert rejected(unit_table) == [(1, 0, code, 1)]
    assert unit_table.pair_ok.tolist() == [True, False, True]
    assert unit_table.texts == ["1", None, "3"]
    assert unit_table.rejections[0].doc_id == "b"


def test_an_empty_document_is_scored() -> None:
    unit_table = unit_of(nested([""]))
    assert unit_table.texts == [""]
    assert unit_table.pair_ok.all()


def test_a_null_candidate_is_told_from_a_null_text() -> None:
    lists = pa.array([[None, {"doc_id": "d", "text": None}]], pa.list_(CANDIDATE))
    unit_table = unit_of(nested([], candidates=lists))
    assert rejected(unit_table) == [(0, 0, "null_candidate", 1), (0, 1, "null_text", 1)]


def test_bytes_are_counted_not_characters() -> None:
    unit_table = unit_of(nested(["é" * 5, "é" * 6]), max_bytes=10)
    assert rejected(unit_table) == [(0, 1, "too_many_bytes", 1)]


def test_an_id_that_is_not_utf8_is_rejected_since_readers_would_stumble() -> None:
    lists = candidates_of(raw(INVALID, b"d"), pa.array(["1", "2"]), [2, 0])
    unit_table = unit_of(nested([], [], candidates=lists, query_id=raw(b"q", INVALID)))
    assert rejected(unit_table) == [(0, 0, "invalid_utf8", 1), (1, None, "invalid_utf8", 0)]
    assert unit_table.rejections[0].doc_id == "��"


def test_integers_are_ids() -> None:
    unit_table = unit_of(nested([None], query_id=pa.array([7])))
    assert unit_table.rejections[0].query_id == "7"


def test_rows_are_counted_in_the_shard() -> None:
    unit = Unit(3, SHARD, 100, 102, 2)
    unit_table = UnitTable.of(unit, "nested", InputColumns(), 99, nested(["a"], [None]))
    assert rejected(unit_table) == [(101, 0, "null_text", 1)]
    assert unit_table.reject_row(0, "c", "m").row == 100
    assert unit_table.reject_pair(1, "c", "m").row == 101


def test_an_instruction_may_be_missing_null_or_bad() -> None:
    assert unit_of(nested(["a"])).instructions is None
    table = nested(["a"], ["b"], ["c"], instruction=raw(b"find", None, INVALID))
    unit_table = unit_of(table)
    assert unit_table.instructions == ["find", None, None]
    assert rejected(unit_table) == [(2, None, "invalid_utf8", 1)]


def test_a_column_of_nulls_only_is_read() -> None:
    unit_table = unit_of(nested(["a"], instruction=pa.nulls(1), query=pa.nulls(1)))
    assert rejected(unit_table) == [(0, None, "null_query", 1)]


LISTS = {
    "list": pa.list_(CANDIDATE),
    "large_list": pa.large_list(CANDIDATE),
    "list_view": pa.list_view(CANDIDATE),
    "large_list_view": pa.large_list_view(CANDIDATE),
}


def chunked(table: pa.Table) -> pa.Table:
    """The same rows, each a slice of a larger chunk."""
    return pa.concat_tables([table.slice(i, 1) for i in range(len(table))])


@pytest.mark.parametrize("data_type", LISTS.values(), ids=LISTS)
def test_every_kind_of_list_is_read(data_type: pa.DataType) -> None:
    plain = nested(["x"], ["a", "b"], None, [], ["c"])
    lists = pa.array(plain.column("candidates").to_pylist(), data_type)
    table = plain.set_column(2, "candidates", lists).slice(1)
    for variant in (table, chunked(table)):
        unit_table = unit_of(variant)
        assert unit_table.texts == ["a", "b", "c"]
        assert unit_table.row_of_pair.tolist() == [0, 0, 3]


def test_a_fixed_size_list_is_read() -> None:
    values = [
        [{"doc_id": "d", "text": text}] * 2 if text else None for text in ("x", "a", None, "b")
    ]
    table = nested([], [], [], [], candidates=pa.array(values, pa.list_(CANDIDATE, 2))).slice(1)
    for variant in (table, chunked(table)):
        assert unit_of(variant).texts == ["a", "a", "b", "b"]


TEXTS = [
    pa.large_string(),
    pa.string_view(),
    pa.dictionary(pa.int32(), pa.string()),
    pa.dictionary(pa.int8(), pa.large_string()),
]


@pytest.mark.parametrize("data_type", TEXTS, ids=str)
def test_every_kind_of_text_is_read(data_type: pa.DataType) -> None:
    def cast(*values: str | None) -> pa.Array:
        return pa.array(values, pa.string()).cast(data_type)

    lists = candidates_of(cast("1", "2", "1"), cast("a", None, "a"), [2, 1])
    table = nested([], [], candidates=lists, query=cast("q", "q"), query_id=cast("i", None))
    for variant in (table, chunked(table)):
        unit_table = unit_of(variant)
        assert unit_table.texts == ["a", None, "a"]
        assert unit_table.queries == ["q", "q"]
        assert rejected(unit_table) == [(0, 1, "null_text", 1)]


def test_invalid_utf8_in_a_dictionary_costs_only_its_rows() -> None:
    texts = pa.DictionaryArray.from_arrays(pa.array([0, 1, 0]), raw(b"good", INVALID))
    unit_table = unit_of(pairs(["a", "b", "c"]).set_column(3, "text", texts), "pairs")
    assert rejected(unit_table) == [(1, None, "invalid_utf8", 1)]
    assert unit_table.texts == ["good", None, "good"]


def test_in_pairs_a_query_is_rendered_once_for_its_rows() -> None:
    unit_table = unit_of(pairs(["a", "a", "b", "a"]), "pairs")
    assert unit_table.queries == ["query a", "query b", "query a"]
    assert unit_table.query_index.tolist() == [0, 0, 1, 2]
    assert unit_table.list_index.tolist() == [0, 0, 1, 2]
    assert unit_table.position.tolist() == [0, 1, 0, 0]


def test_in_pairs_another_text_of_the_same_query_is_the_same_list() -> None:
    unit_table = unit_of(pairs(["a", "a"], query=["one", "two"]), "pairs")
    assert unit_table.queries == ["one", "two"]
    assert unit_table.list_index.tolist() == [0, 0]


def test_in_pairs_a_rejected_row_is_a_rejected_pair() -> None:
    table = pairs(["a", None, "b", "c"], query=["x", "x", None, "x"], text=["1", "2", None, None])
    unit_table = unit_of(table, "pairs")
    assert rejected(unit_table) == [
        (1, None, "null_query_id", 1),
        (2, None, "null_query", 1),
        (3, None, "null_text", 1),
    ]
    assert unit_table.row_ok.tolist() == unit_table.pair_ok.tolist() == [True, False, False, False]


@pytest.mark.parametrize(
    ("table", "layout"),
    [
        (nested(["a", None], None, [], ["b"], query=raw(b"q", b"q", INVALID, b"q")), "nested"),
        (pairs(["a", "a", "b", None, "a"]), "pairs"),
        (nested(), "nested"),
        (pairs([]), "pairs"),
    ],
)
def test_a_unit_travels_as_arrow_ipc(table: pa.Table, layout: Any) -> None:
    split_ids = pa.array([b"a"], pa.large_binary())
    unit = Unit(5, SHARD, 10, 10 + len(table), None)
    before = UnitTable.of(unit, layout, InputColumns(text="text"), 50, table, split_ids)
    after = UnitTable.from_ipc(before.to_ipc())
    assert after.table.equals(before.table)
    for name in ("unit", "columns", "queries", "texts", "rejections", "max_bytes", "layout"):
        assert getattr(after, name) == getattr(before, name), name
    for name in ("query_index", "row_of_pair", "position", "list_index", "list_split", "pair_ok"):
        assert np.array_equal(getattr(after, name), getattr(before, name)), name


def test_a_slice_travels_without_the_rest() -> None:
    table = nested(*[["x" * 900]] * 1000).slice(500, 1)
    assert len(unit_of(table).to_ipc()) < 10_000
