"""Verify compares values of every type that a shard may hold, and believes none of them."""

from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from shardrank.config import Config, InputConfig, ModelConfig, OutputConfig
from shardrank.job.fingerprints import output_fields
from shardrank.store.filesystem import Storage
from shardrank.store.plan import MIN_SCORE, TOP_K
from shardrank.store.verify import verify
from shardrank.store.verify_values import bare, same
from store.small_job import do_job, nested, parquet

NUM_ROWS = 40
DICTIONARY = pa.dictionary(pa.int32(), pa.string())
BAD_TEXT = pa.array([b"\xff"] * NUM_ROWS, pa.binary()).view(pa.string())


def table(**columns: Any) -> pa.Table:
    return nested(*([f"text {i % 3}", f"text {i}", None] for i in range(NUM_ROWS)), **columns)


def with_candidates(data_type: pa.DataType) -> pa.Table:
    plain = table()
    candidates = pa.array(plain["candidates"].to_pylist(), data_type)
    return plain.set_column(2, "candidates", candidates)


def problems_of(folder: Path, shard: pa.Table, **options: Any) -> tuple[str, ...]:
    source, output = Storage(str(folder / "data")), Storage(str(folder / "output"))
    source.replace("a.parquet", parquet(shard, **options))
    do_job(source.url, output, unit_pairs=1000, top_k=1)
    result = verify(source.url, output)
    assert result.counts.pairs_out == NUM_ROWS
    return result.problems


def test_the_cuts_are_read_under_the_names_that_jobs_store_them_by() -> None:
    config = Config(
        input=InputConfig(path="in"), output=OutputConfig(path="out"), model=ModelConfig(path="m")
    )
    assert {TOP_K, MIN_SCORE} <= output_fields(config).keys()


def test_dictionaries_in_candidates_pass_across_row_groups(tmp_path: Path) -> None:
    struct = pa.struct([("doc_id", pa.string()), ("text", DICTIONARY)])
    shard = with_candidates(pa.list_(struct))
    assert problems_of(tmp_path, shard, row_group_size=7) == ()


PASSING = {
    "dictionaries in lists": pa.array(
        [[f"a{i % 5}"] for i in range(NUM_ROWS)], pa.list_(DICTIONARY)
    ),
    "NaN beside bytes that are no text": pa.StructArray.from_arrays(
        [BAD_TEXT, pa.array([float("nan")] * NUM_ROWS)], names=["text", "number"]
    ),
    "NaN in maps": pa.array(
        [None, *[[("k", float("nan"))]] * (NUM_ROWS - 1)], pa.map_(pa.string(), pa.float64())
    ),
    "half floats": pa.array([np.float16(1)] * NUM_ROWS, pa.float16()),
    "lists of a fixed size": pa.array([None, *[[1, 2]] * (NUM_ROWS - 1)], pa.list_(pa.int8(), 2)),
    "extension types": pa.array([bytes(16)] * NUM_ROWS, pa.uuid()),
    "nulls": pa.nulls(NUM_ROWS),
}


@pytest.mark.parametrize("column", PASSING.values(), ids=PASSING)
def test_columns_of_any_type_pass_through(tmp_path: Path, column: pa.Array) -> None:
    assert problems_of(tmp_path, table(more=column), row_group_size=7) == ()


@pytest.mark.parametrize("name", ["query", "query_id", "more"])
def test_views_pass_though_rows_of_them_cannot_be_taken(tmp_path: Path, name: str) -> None:
    views = pa.array([None, *(f"{i}" for i in range(1, NUM_ROWS))], pa.string_view())
    source, output = Storage(str(tmp_path / "data")), Storage(str(tmp_path / "output"))
    source.replace("a.parquet", parquet(table(**{name: views})))
    do_job(source.url, output, unit_pairs=1000)
    assert verify(source.url, output).problems == ()


def test_columns_of_one_name_are_compared_one_by_one(tmp_path: Path) -> None:
    shard = table(more=[1] * NUM_ROWS)
    shard = shard.append_column("more", pa.array([2] * NUM_ROWS))
    assert problems_of(tmp_path, shard) == ()
    [path] = (tmp_path / "output").glob("*.parquet")
    file = pq.ParquetFile(path)
    after = file.read()
    with pq.ParquetWriter(path, file.schema_arrow) as writer:
        index = after.column_names.index("more")
        writer.write_table(after.set_column(index, "more", after.column(index + 1)))
        writer.add_key_value_metadata(file.metadata.metadata)
    result = verify(str(tmp_path / "data"), Storage(str(tmp_path / "output")))
    assert any("'more' is not what went in" in problem for problem in result.problems)


def test_fields_of_one_name_are_compared_one_by_one(tmp_path: Path) -> None:
    plain = table()
    lists = plain["candidates"].combine_chunks()
    children = [*lists.values.flatten(), *(pa.array(np.arange(3 * NUM_ROWS) + n) for n in (0, 99))]
    structs = pa.StructArray.from_arrays(children, names=["doc_id", "text", "more", "more"])
    shard = plain.set_column(2, "candidates", pa.ListArray.from_arrays(lists.offsets, structs))
    assert problems_of(tmp_path, shard) == ()


def test_a_list_in_which_nothing_ever_was_passes(tmp_path: Path) -> None:
    shard = nested([], None, [])
    lists = pa.array([[], None, [None]], pa.list_(pa.null()))
    source, output = Storage(str(tmp_path / "data")), Storage(str(tmp_path / "output"))
    source.replace("a.parquet", parquet(shard.set_column(2, "candidates", lists)))
    source.replace("b.parquet", parquet(nested(["a"])))
    do_job(source.url, output)
    result = verify(source.url, output)
    assert (result.problems, result.failed) == ((), ())
    assert (result.counts.rows_out, result.counts.pairs_rejected) == (4, 1)


DIFFERENT = {
    "a value": ([1, 2], [1, 3]),
    "a null": ([1, None], [1, 0]),
    "a text": (["a"], ["b"]),
    "an item": ([[1.0], [2.0]], [[1.0], [3.0]]),
    "where a list ends": ([[1], [2, 3]], [[1, 2], [3]]),
    "an empty list": ([[]], [None]),
    "a field": ([{"x": 1, "y": None}], [{"x": 1, "y": 2}]),
    "a null struct": ([{"x": None}], [None]),
    "the number of rows": ([1], [1, 1]),
    "a sign": ([0.0], [-0.0]),
}


@pytest.mark.parametrize(("one", "two"), DIFFERENT.values(), ids=DIFFERENT)
def test_what_differs_is_not_the_same(one: list[Any], two: list[Any]) -> None:
    data_type = pa.array([*one, *two]).type
    first, second = pa.array(one, data_type), pa.array(two, data_type)
    assert same(bare(first), bare(first))
    assert not same(bare(first), bare(second))


def test_a_slice_is_the_same_as_its_copy() -> None:
    maps = pa.array([[("a", 1)], None, [("b", 2), ("c", 3)]], pa.map_(pa.string(), pa.int8()))
    fixed = pa.array([[1, 2], None, [3, 4]], pa.list_(pa.int8(), 2))
    for values in (maps, fixed):
        copy = pa.array(values[1:].to_pylist(), values.type)
        assert same(bare(values[1:]), bare(copy))
