"""A setting that does not fit the input is named before anything is scored."""

from collections.abc import Sequence
from typing import Any

import pyarrow as pa
import pytest

from shardrank.config import InputColumns, OutputColumns
from shardrank.errors import ConfigError, InputError
from shardrank.store.columns import check_columns, check_split_queries, column_fault
from shardrank.store.footers import Footer
from shardrank.types import Layout, Shard
from store.small_job import NESTED, PAIRS, nested

SHARD = Shard("a.parquet", 1, "", 1)


def footer(schema: pa.Schema, layout: Layout, shard: Shard = SHARD) -> Footer:
    return Footer(shard, (), schema, column_fault(schema, layout, InputColumns(), shard))


def check(
    *schemas: pa.Schema, layout: Layout = "nested", shard: Shard = SHARD, **names: str
) -> None:
    footers = [footer(schema, layout, shard) for schema in schemas]
    check_columns(footers, layout, InputColumns(), OutputColumns(**names))


def without(schema: pa.Schema, name: str) -> pa.Schema:
    return schema.remove(schema.get_field_index(name))


def candidates(*fields: tuple[str, pa.DataType]) -> pa.Schema:
    return NESTED.set(2, pa.field("candidates", pa.list_(pa.struct(fields))))


def test_a_fitting_schema_passes() -> None:
    check(NESTED)
    check(PAIRS, layout="pairs")


def test_a_missing_column_is_named_with_setting_and_hint() -> None:
    schema = without(NESTED, "query").append(pa.field("query_text", pa.string()))
    with pytest.raises(InputError, match=r"no column 'query' \(input.columns.query\)") as error:
        check(schema)
    assert 'did you mean input.columns.query = "query_text"?' in str(error.value)
    assert "query_id, candidates, query_text" in str(error.value)


def test_a_missing_field_of_the_candidates_is_named() -> None:
    with pytest.raises(
        InputError, match="column 'candidates' of shard a.parquet has no column 'text'"
    ):
        check(candidates(("doc_id", pa.string()), ("body", pa.string())))


@pytest.mark.parametrize(
    ("name", "data_type", "wanted"),
    [
        ("query", pa.int64(), "must be text"),
        ("query", pa.list_(pa.string()), "must be text"),
        ("query_id", pa.float64(), "must be text or an integer"),
        ("candidates", pa.list_(pa.string()), "must be a list of structs"),
        ("candidates", pa.string(), "must be a list of structs"),
    ],
)
def test_a_wrong_type_is_named(name: str, data_type: pa.DataType, wanted: str) -> None:
    index = NESTED.get_field_index(name)
    with pytest.raises(InputError, match=wanted):
        check(NESTED.set(index, pa.field(name, data_type)))


def test_a_fault_of_some_shards_is_left_to_them() -> None:
    check(NESTED, without(NESTED, "query"))


def test_a_column_that_comes_twice_is_a_fault() -> None:
    schema = NESTED.append(pa.field("query", pa.string()))
    fault = column_fault(schema, "nested", InputColumns(), SHARD)
    assert fault is not None
    assert fault.code == "duplicate_column"


@pytest.mark.parametrize(("schema", "layout"), [(PAIRS, "nested"), (NESTED, "pairs")])
def test_the_other_layout_is_suggested(schema: pa.Schema, layout: Layout) -> None:
    other = "pairs" if layout == "nested" else "nested"
    with pytest.raises(InputError, match=f'is this input.layout = "{other}"'):
        check(schema, layout=layout)


def test_a_first_stage_score_is_not_overwritten() -> None:
    schema = candidates(("doc_id", pa.string()), ("text", pa.string()), ("score", pa.float32()))
    with pytest.raises(ConfigError, match="--set output.columns.score=rerank_score"):
        check(schema)
    check(schema, score="rerank_score")


def test_in_a_row_of_pairs_the_columns_themselves_collide() -> None:
    schema = PAIRS.append(pa.field("rank", pa.int64()))
    with pytest.raises(ConfigError, match=r"output.columns.rank = 'rank'"):
        check(schema, layout="pairs")
    check(PAIRS.append(pa.field("num_cut", pa.int64())), layout="pairs")


def test_a_row_column_collides_with_our_count() -> None:
    with pytest.raises(ConfigError, match="output.columns.num_cut"):
        check(NESTED.append(pa.field("num_cut", pa.int64())))
    check(NESTED.append(pa.field("score", pa.int64())))


def test_a_partition_folder_and_a_column_of_one_name_are_refused() -> None:
    shard = Shard("lang=en/a.parquet", 1, "", 1, (("lang", "en"),))
    with pytest.raises(InputError, match="'lang' beside its folder lang="):
        check(NESTED.append(pa.field("lang", pa.string())), shard=shard)


def split(*counts: int) -> list[Footer]:
    return [Footer(Shard(f"{i}.parquet", 1, "", 9, (), n)) for i, n in enumerate(counts)]


@pytest.mark.parametrize(
    "cut", [{"top_k": 1, "min_score": None}, {"top_k": None, "min_score": 0.5}]
)
def test_queries_that_do_not_stand_together_cannot_be_cut(cut: dict[str, Any]) -> None:
    with pytest.raises(InputError, match=r"2 queries of shard 1.parquet \(5 in all shards\)"):
        check_split_queries(split(0, 2, 3), **cut)
    assert check_split_queries(split(0, 0), **cut) == 0


def test_queries_that_do_not_stand_together_are_counted() -> None:
    assert check_split_queries(split(0, 2, 3), None, None) == 5


@pytest.mark.parametrize(
    "text_type",
    [pa.large_string(), pa.string_view(), pa.dictionary(pa.int32(), pa.string()), pa.null()],
)
def test_every_kind_of_text_is_text(text_type: pa.DataType) -> None:
    check(
        candidates(("doc_id", text_type), ("text", text_type)).set(1, pa.field("query", text_type))
    )


def test_shared_schemas_are_checked_for_each_partition() -> None:
    schema = nested(["a"]).schema.append(pa.field("day", pa.string()))
    shards: Sequence[Shard] = [
        Shard("a.parquet", 1, "", 1),
        Shard("day=1/b.parquet", 1, "", 1, (("day", "1"),)),
    ]
    footers = [footer(schema, "nested", shard) for shard in shards]
    with pytest.raises(InputError, match="beside its folder"):
        check_columns(footers, "nested", InputColumns(), OutputColumns())
