"""Units cover every row exactly once, about as many pairs each as asked for."""

from itertools import pairwise
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest
from hypothesis import given
from hypothesis import strategies as st

from shardrank.config import InputColumns
from shardrank.store.footers import Footer, RowGroup, read_footers
from shardrank.store.units import cut_units, list_shards
from shardrank.types import Layout, Shard, Unit
from store.small_job import nested, pairs

row_groups = st.builds(
    RowGroup,
    st.integers(0, 50),
    st.integers(0, 500),
    st.integers(0, 100_000),
    st.integers(0, 10_000_000),
)


@st.composite
def footers(draw: st.DrawFn) -> Footer:
    groups = tuple(draw(st.lists(row_groups, max_size=6)))
    num_rows = sum(group.num_rows for group in groups)
    return Footer(Shard(draw(st.text(max_size=3)), 10_000, "", num_rows), groups)


def rows_of(units: list[Unit]) -> list[int]:
    return [row for unit in units for row in range(unit.row_start, unit.row_stop or 0)]


@given(st.lists(footers(), max_size=4), st.integers(1, 300))
def test_every_row_is_in_exactly_one_unit(shards: list[Footer], unit_pairs: int) -> None:
    units = cut_units(shards, unit_pairs, "nested")
    assert [unit.number for unit in units] == list(range(len(units)))
    place = 0
    for footer in shards:
        own = []
        while place < len(units) and (not own or own[-1].row_stop != footer.shard.num_rows):
            own.append(units[place])
            place += 1
        assert {unit.shard for unit in own} == {footer.shard}
        assert rows_of(own) == list(range(footer.shard.num_rows or 0))
    assert place == len(units)


@given(st.lists(st.integers(0, 5), max_size=60), st.integers(1, 20))
def test_a_query_is_never_divided(queries: list[int], unit_pairs: int) -> None:
    starts = np.array([i == 0 or q != queries[i - 1] for i, q in enumerate(queries)], np.bool_)
    groups = (RowGroup(len(queries), len(queries), 0, 0),)
    shard = Shard("a", 10_000, "", len(queries))
    footer = Footer(shard, groups, None, None, np.packbits(starts))
    units = cut_units([footer], unit_pairs, "pairs")
    assert rows_of(units) == list(range(len(queries)))
    assert all(starts[unit.row_start] for unit in units if unit.row_stop)


@given(st.lists(st.integers(1, 30), min_size=1, max_size=20), st.integers(30, 100))
def test_units_end_where_row_groups_end_and_are_not_larger_than_asked(
    sizes: list[int], unit_pairs: int
) -> None:
    groups = tuple(RowGroup(size, size, 0, 0) for size in sizes)
    units = cut_units([Footer(Shard("a", 9999, "", sum(sizes)), groups)], unit_pairs, "nested")
    assert {unit.row_stop for unit in units} <= set(np.cumsum(sizes).tolist())
    assert all((unit.num_pairs or 0) <= unit_pairs for unit in units)
    for left, right in pairwise(units):
        assert (left.num_pairs or 0) + (right.num_pairs or 0) > unit_pairs / 2


def shards_of(num_shards: int) -> list[Footer]:
    """Shards of 100 pairs in ten row groups."""
    groups = (RowGroup(10, 10, 0, 0),) * 10
    return [Footer(Shard(f"{i:03d}", 9999, "", 100), groups) for i in range(num_shards)]


def test_the_last_tenth_of_many_units_is_cut_smaller() -> None:
    sizes = [unit.num_pairs for unit in cut_units(shards_of(100), 100, "nested")]
    assert sizes == [100] * 90 + [20] * 50


def test_a_few_units_are_all_of_one_size() -> None:
    assert [unit.num_pairs for unit in cut_units(shards_of(10), 100, "nested")] == [100] * 10


def unit_sizes(group: RowGroup, unit_pairs: int) -> list[int]:
    footer = Footer(Shard("a", 1 << 20, "", group.num_rows), (group,))
    units = cut_units([footer], unit_pairs, "nested")
    return [(unit.row_stop or 0) - unit.row_start for unit in units]


def test_a_huge_row_group_is_cut_by_rows() -> None:
    assert unit_sizes(RowGroup(100, 2000, 0, 0), 500) == [25] * 4


def test_long_documents_make_smaller_units() -> None:
    short = unit_sizes(RowGroup(100, 100, 100 * 500, 0), 50)
    long = unit_sizes(RowGroup(100, 100, 100 * 5000, 0), 50)
    assert len(short) == 2
    assert len(long) == 10


def test_a_footer_that_claims_too_much_makes_few_units() -> None:
    group = RowGroup(10**12, 10**12, 0, 0)
    footer = Footer(Shard("a", 4096, "", 10**12), (group,))
    assert len(cut_units([footer], 1, "nested")) <= 65


def test_a_shard_without_rows_is_one_unit() -> None:
    footer = Footer(Shard("a", 1, "", 0))
    assert cut_units([footer], 10, "nested") == [Unit(0, footer.shard, 0, 0, 0)]


def test_a_shard_that_cannot_be_read_is_one_unit() -> None:
    footer = Footer(Shard("a", 1, "", None))
    assert cut_units([footer], 10, "nested") == [Unit(0, footer.shard, 0, None, None)]


def read_one(path: Path, layout: Layout) -> Footer:
    storage, shards = list_shards(str(path))
    [footer] = read_footers(storage, shards, layout, InputColumns())
    return footer


def test_a_footer_bounds_the_pairs_of_each_row_group(tmp_path: Path) -> None:
    table = nested(["a", "b"], [], None, ["c"])
    pq.write_table(table, tmp_path / "a.parquet", row_group_size=2)
    footer = read_one(tmp_path, "nested")
    assert [(group.num_rows, group.num_pairs) for group in footer.row_groups] == [(2, 3), (2, 2)]
    assert footer.shard.num_rows == 4


@pytest.mark.parametrize("row_group_size", [1, 2, 100])
def test_query_starts_are_found_across_row_groups(tmp_path: Path, row_group_size: int) -> None:
    table = pairs(["a", "a", "b", None, None, "c", "c", "a"])
    pq.write_table(table, tmp_path / "a.parquet", row_group_size=row_group_size)
    footer = read_one(tmp_path, "pairs")
    rows = footer.next_query_starts(np.arange(9))
    assert rows.tolist() == [0, 2, 2, 3, 5, 5, 7, 7, 8]
    assert footer.shard.num_split_queries == 1


def test_a_shard_that_is_not_parquet_has_a_fault_and_costs_no_other(tmp_path: Path) -> None:
    (tmp_path / "a.parquet").write_bytes(b"not Parquet at all")
    pq.write_table(nested(["a"]), tmp_path / "b.parquet")
    storage, shards = list_shards(str(tmp_path))
    bad, good = read_footers(storage, shards, "nested", InputColumns())
    assert bad.fault is not None
    assert bad.fault.code == "not_parquet"
    assert bad.shard.num_rows is None
    assert good.fault is None


def test_shards_of_one_schema_share_it(tmp_path: Path) -> None:
    for name in ("a", "b"):
        pq.write_table(nested(["a"]), tmp_path / f"{name}.parquet")
    storage, shards = list_shards(str(tmp_path))
    first, second = read_footers(storage, shards, "nested", InputColumns())
    assert first.schema is second.schema
