"""A unit is read as it was planned; a broken shard is told from one that cannot be reached."""

import os
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given
from hypothesis import strategies as st

from shardrank.config import InputColumns
from shardrank.errors import InputError, ShardError
from shardrank.store import reader
from shardrank.store.filesystem import Storage
from shardrank.store.footers import read_footers
from shardrank.store.reader import read_unit
from shardrank.store.unit_table import UnitTable
from shardrank.store.units import cut_units, list_shards
from shardrank.types import Layout, Unit
from store.small_job import nested, pairs, parquet


def plan_units(
    path: str, unit_pairs: int = 4, layout: Layout = "nested"
) -> tuple[Storage, list[Unit]]:
    storage, shards = list_shards(path)
    footers = read_footers(storage, shards, layout, InputColumns())
    return storage, cut_units(footers, unit_pairs, layout)


def read(storage: Storage, unit: Unit, layout: Layout = "nested") -> UnitTable:
    return read_unit(storage, unit, layout, InputColumns(), 1000)


def one_unit(folder: Path, table: pa.Table, **options: Any) -> tuple[Storage, Unit]:
    pq.write_table(table, folder / "a.parquet", **options)
    storage, [unit] = plan_units(str(folder), 10**9)
    return storage, unit


TEXTS = [["a", "b"], [], ["c"], None, ["d", "e", "f"], ["g"], ["h"]]


@pytest.mark.parametrize("row_group_size", [1, 2, 3, 100])
@pytest.mark.parametrize("unit_pairs", [1, 2, 5, 100])
def test_units_together_are_the_shard(tmp_path: Path, row_group_size: int, unit_pairs: int) -> None:
    table = nested(*TEXTS)
    pq.write_table(table, tmp_path / "a.parquet", row_group_size=row_group_size)
    storage, units = plan_units(str(tmp_path), unit_pairs)
    parts = [read(storage, unit).table for unit in units]
    assert pa.concat_tables(parts).to_pylist() == table.to_pylist()


@given(st.lists(st.integers(1, 9), min_size=1, max_size=5), st.integers(0, 30), st.integers(0, 30))
def test_any_part_of_any_row_groups_is_read(sizes: list[int], one: int, two: int) -> None:
    num_rows = sum(sizes)
    start, stop = sorted((one % (num_rows + 1), two % (num_rows + 1)))
    table = nested(*([str(row)] for row in range(num_rows)))
    storage = Storage("memory://any-part", "input")
    sink = pa.BufferOutputStream()
    with pq.ParquetWriter(sink, table.schema) as writer:
        row = 0
        for size in sizes:
            writer.write_table(table.slice(row, size))
            row += size
    storage.replace("a.parquet", sink.getvalue().to_pybytes())
    [shard] = list_shards("memory://any-part")[1]
    unit = read(storage, Unit(0, shard, start, stop, None))
    assert unit.texts == [str(row) for row in range(start, stop)]


def test_a_unit_is_read_from_every_store(storage: Storage) -> None:
    storage.create_exclusive("lang=en/a.parquet", parquet(nested(*TEXTS), row_group_size=2))
    source, units = plan_units(storage.url, 2)
    assert [text for unit in units for text in read(source, unit).texts] == list("abcdefgh")


def test_partition_values_are_columns(tmp_path: Path) -> None:
    folder = tmp_path / "lang=en" / "day=__HIVE_DEFAULT_PARTITION__"
    folder.mkdir(parents=True)
    pq.write_table(nested(["a"], ["b"]), folder / "a.parquet")
    storage, [unit] = plan_units(str(tmp_path))
    table = read(storage, unit).table
    assert table["lang"].to_pylist() == ["en", "en"]
    assert table["day"].to_pylist() == [None, None]


def test_a_shard_without_rows_is_read_as_such(tmp_path: Path) -> None:
    storage, unit = one_unit(tmp_path, nested())
    assert read(storage, unit).num_rows == 0


def test_metadata_of_other_tools_does_not_pass(tmp_path: Path) -> None:
    table = nested(["a"]).replace_schema_metadata({"pandas": "{}", "huggingface": "{}"})
    storage, unit = one_unit(tmp_path, table)
    assert read(storage, unit).table.schema.metadata is None


def test_queries_split_across_units_have_no_ranks(tmp_path: Path) -> None:
    pq.write_table(pairs(["a", "b", "a", "c"]), tmp_path / "a.parquet")
    storage, units = plan_units(str(tmp_path), 1, "pairs")
    split = [read(storage, unit, "pairs").list_split.tolist() for unit in units]
    assert split == [[True], [False], [True], [False]]


def fault(storage: Storage, unit: Unit, layout: Layout = "nested") -> str:
    with pytest.raises(ShardError) as error:
        read(storage, unit, layout)
    assert "a.parquet" in str(error.value)
    return error.value.code


def test_what_is_not_parquet_is_a_fault_of_the_shard(tmp_path: Path) -> None:
    (tmp_path / "a.parquet").write_bytes(b"PAR1 not really PAR1")
    storage, [unit] = plan_units(str(tmp_path))
    assert fault(storage, unit) == "not_parquet"


def test_a_wrong_page_checksum_is_a_fault_of_the_shard(tmp_path: Path) -> None:
    table = nested(["find this text"])
    options = {"compression": "none", "use_dictionary": False, "write_statistics": False}
    data = parquet(table, write_page_checksum=True, **options)
    assert data.count(b"find this text") == 1
    (tmp_path / "a.parquet").write_bytes(data.replace(b"find this text", b"find that text"))
    storage, [unit] = plan_units(str(tmp_path))
    assert fault(storage, unit) == "not_parquet"


def test_a_missing_column_is_a_fault_of_the_shard(tmp_path: Path) -> None:
    storage, unit = one_unit(tmp_path, nested(["a"]).drop_columns("query"))
    assert fault(storage, unit) == "missing_column"


def test_a_wrong_type_is_a_fault_of_the_shard(tmp_path: Path) -> None:
    storage, unit = one_unit(tmp_path, nested(["a"], query=pa.array([1.5])))
    assert fault(storage, unit) == "wrong_type"


def test_what_would_not_fit_in_memory_is_not_read(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    storage, unit = one_unit(tmp_path, nested(["x" * 100_000]))
    monkeypatch.setattr(reader, "MAX_UNIT_BYTES", 50_000)
    assert fault(storage, unit) == "row_group_too_large"


def test_what_grows_while_it_is_read_is_given_up(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    storage, unit = one_unit(tmp_path, nested(*[["x" * 1000]] * 1000))
    monkeypatch.setattr(reader, "MAX_UNIT_BYTES", 500_000)
    assert fault(storage, unit) == "row_group_too_large"


def test_a_shard_that_was_changed_is_not_broken(tmp_path: Path) -> None:
    storage, unit = one_unit(tmp_path, nested(["a"]))
    pq.write_table(nested(["b"]), tmp_path / "a.parquet")
    with pytest.raises(InputError, match="input changed"):
        read(storage, unit)


def test_a_shard_that_was_changed_into_garbage_is_not_broken(tmp_path: Path) -> None:
    storage, unit = one_unit(tmp_path, nested(["a"]))
    (tmp_path / "a.parquet").write_bytes(b"garbage")
    with pytest.raises(InputError, match="has 7 bytes"):
        read(storage, unit)


def test_a_shard_that_is_gone_is_not_broken(tmp_path: Path) -> None:
    storage, unit = one_unit(tmp_path, nested(["a"]))
    (tmp_path / "a.parquet").unlink()
    with pytest.raises(InputError, match="no longer in"):
        read(storage, unit)


@pytest.mark.skipif(os.geteuid() == 0, reason="root may read everything")
def test_a_shard_without_permission_is_not_broken(tmp_path: Path) -> None:
    storage, unit = one_unit(tmp_path, nested(["a"]))
    (tmp_path / "a.parquet").chmod(0)
    with pytest.raises(InputError, match="permission"):
        read(storage, unit)


@pytest.mark.parametrize("after", [0, 1])
def test_a_network_that_fails_does_not_break_a_shard(
    s3_bucket: str, monkeypatch: pytest.MonkeyPatch, after: int
) -> None:
    storage = Storage(f"{s3_bucket}/network-{after}", "input")
    storage.create_exclusive("a.parquet", parquet(nested(*TEXTS), row_group_size=2))
    source, [unit] = plan_units(storage.url, 100)
    files = type(source._files)
    whole, calls = files.read_range, []

    def failing(self: Any, path: str, start: int, stop: int) -> bytes:
        calls.append(path)
        if len(calls) > after:
            raise ConnectionResetError("connection reset by peer")
        return whole(self, path, start, stop)

    monkeypatch.setattr(files, "read_range", failing)
    with pytest.raises(InputError, match="connection reset"):
        read(source, unit)
    monkeypatch.undo()


def test_a_disk_that_fails_does_not_break_a_shard(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    storage, unit = one_unit(tmp_path, nested(["a"]))

    def broken_disk(*_: Any, **__: Any) -> None:
        raise OSError(5, "Input/output error")

    monkeypatch.setattr(pq, "read_metadata", broken_disk)
    with pytest.raises(InputError, match="Input/output error"):
        read(storage, unit)


def test_a_limit_of_any_size_is_a_limit(tmp_path: Path) -> None:
    storage, unit = one_unit(tmp_path, nested(["a"]))
    assert read_unit(storage, unit, "nested", InputColumns(), 10**20).texts == ["a"]


@pytest.mark.parametrize("unit_pairs", [1, 10, 1000])
def test_dictionaries_in_candidates_are_read_however_units_are_cut(
    tmp_path: Path, unit_pairs: int
) -> None:
    struct = pa.struct([("doc_id", pa.string()), ("text", pa.dictionary(pa.int8(), pa.string()))])
    plain = nested(*([f"text {i % 3}", f"text {i}"] for i in range(40)))
    candidates = pa.array(plain["candidates"].to_pylist(), pa.list_(struct))
    table = plain.set_column(2, "candidates", candidates)
    pq.write_table(table, tmp_path / "a.parquet", row_group_size=7)
    storage, units = plan_units(str(tmp_path), unit_pairs)
    parts = [UnitTable.from_ipc(read(storage, unit).to_ipc()) for unit in units]
    assert [text for part in parts for text in part.texts] == [
        text for i in range(40) for text in (f"text {i % 3}", f"text {i}")
    ]


def test_views_are_read_as_what_they_show(tmp_path: Path) -> None:
    struct = pa.struct([("word", pa.string_view())])
    storage, unit = one_unit(
        tmp_path,
        nested(
            ["a"],
            query=pa.array(["what"], pa.string_view()),
            data=pa.array([b"\xff"], pa.binary_view()),
            words=pa.array([[{"word": "w"}]], pa.list_(struct)),
        ),
    )
    unit_table = read(storage, unit)
    assert unit_table.queries == ["what"]
    assert unit_table.table["data"].to_pylist() == [b"\xff"]
    assert unit_table.table["words"].to_pylist() == [[{"word": "w"}]]
    assert "view" not in str(unit_table.table.schema)


@pytest.mark.parametrize("list_of", [pa.list_, pa.large_list, pa.list_view])
def test_lists_in_which_nothing_ever_was_are_read(tmp_path: Path, list_of: Any) -> None:
    lists = pa.array([[], None, [None, None]], list_of(pa.null()))
    storage, unit = one_unit(tmp_path, nested([], [], []).set_column(2, "candidates", lists))
    unit_table = read(storage, unit)
    assert (unit_table.num_rows, unit_table.num_pairs) == (3, 2)
    assert [rejection.code for rejection in unit_table.rejections] == ["null_candidate"] * 2
