"""A unit's rows, read from its shard: only the row groups that it needs."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from shardrank.config import InputColumns
from shardrank.errors import InputError, ShardError
from shardrank.store.columns import column_fault
from shardrank.store.faults import enough_memory, shard_fault
from shardrank.store.filesystem import Storage
from shardrank.store.inflation import spelled_out_bytes
from shardrank.store.plain_types import has_nested_dictionary, with_structs, without_views
from shardrank.store.queries import read_query_runs
from shardrank.store.unit_table import UnitTable
from shardrank.types import Layout, Shard, Unit

MAX_UNIT_BYTES = 1 << 30
_BATCH_PAIRS = 1024
_STREAM_BYTES = 4 << 20


def read_unit(
    storage: Storage, unit: Unit, layout: Layout, columns: InputColumns, max_bytes: int
) -> UnitTable:
    """Read a unit and check its rows.

    max_bytes: of one text in UTF-8; longer ones are rejected.

    Raises ShardError if the shard is broken, now and for ever (codes not_parquet, missing_column,
    duplicate_column, wrong_type, row_group_too_large), and InputError if it is not the shard that
    was planned with, or if the store fails: nothing is wrong with such a shard for good.
    """
    with shard_fault(storage, unit.shard) as caught:
        table, split_ids = _read(storage, unit, layout, columns)
    # Afterwards, so that a shard that was replaced meanwhile is found out, whatever came of it.
    _require_unchanged(storage, unit.shard)
    if caught.fault is not None:
        raise caught.fault
    # Not within the edge above: what fails from here on is no reason to give the shard up.
    with enough_memory(storage, unit.shard):
        table = without_views(table)
        if layout == "nested":
            table = with_structs(table, columns)
        table = _with_partition(table, unit.shard)
        return UnitTable.of(unit, layout, columns, max_bytes, table, split_ids)


def _require_unchanged(storage: Storage, shard: Shard) -> None:
    found = storage.stat(shard.path)
    if found is None or (found.size, found.etag) != (shard.size, shard.etag):
        now = "is gone" if found is None else f"has {found.size} bytes and etag {found.etag}"
        raise InputError(
            f"input changed: shard {storage.display(shard.path)} had {shard.size} bytes and etag "
            f"{shard.etag} when the job was planned, and {now} now; put it back, or give the "
            "output another folder"
        )


def _read(
    storage: Storage, unit: Unit, layout: Layout, columns: InputColumns
) -> tuple[pa.Table, pa.Array | None]:
    """The unit's rows, and the ids of the shard's queries that are not contiguous."""
    with storage.open_input(unit.shard.path) as source:
        metadata = pq.read_metadata(source)
        stop = metadata.num_rows if unit.row_stop is None else unit.row_stop
        groups, first_row, whole = _row_groups(metadata, unit.row_start, stop)
        _refuse_too_large(metadata, groups, unit, stop)
        options: dict[str, Any] = {"metadata": metadata, "page_checksum_verification": True}
        # A row group that is only needed in part is streamed, and left where the unit ends.
        options |= {"pre_buffer": whole, "buffer_size": 0 if whole else _STREAM_BYTES}
        with pq.ParquetFile(source, **options) as file:
            fault = column_fault(file.schema_arrow, layout, columns, unit.shard)
            if fault is not None:
                raise fault
            table = _read_rows(file, unit, groups, unit.row_start - first_row, stop - first_row)
            split_ids = None
            if unit.shard.num_split_queries:
                split_ids = read_query_runs(file, columns.query_id)[1]
    table.validate()
    return table.replace_schema_metadata(None), split_ids


def _with_partition(table: pa.Table, shard: Shard) -> pa.Table:
    for name, value in shard.partition:
        table = table.append_column(name, pa.repeat(pa.scalar(value, pa.string()), table.num_rows))
    return table


def _row_groups(metadata: Any, start: int, stop: int) -> tuple[list[int], int, bool]:
    """The row groups that hold rows [start, stop), their first row, and if all of it is meant."""
    sizes = [metadata.row_group(i).num_rows for i in range(metadata.num_row_groups)]
    bounds = np.cumsum([0, *sizes])
    groups = [i for i in range(len(sizes)) if bounds[i] < stop and bounds[i + 1] > start]
    if not groups:
        return [], start, True
    first, last = int(bounds[groups[0]]), int(bounds[groups[-1] + 1])
    return groups, first, (first, last) == (start, stop)


def _refuse_too_large(metadata: Any, groups: list[int], unit: Unit, stop: int) -> None:
    """A few kilobytes can inflate to gigabytes; the footer shows it beforehand."""
    num_rows = sum(metadata.row_group(i).num_rows for i in groups)
    num_bytes = sum(metadata.row_group(i).total_byte_size for i in groups)
    share = num_bytes * (stop - unit.row_start) // max(1, num_rows)
    if share > MAX_UNIT_BYTES:
        raise _too_large(unit, stop, share)


def _too_large(unit: Unit, stop: int, num_bytes: int) -> ShardError:
    return ShardError(
        "row_group_too_large",
        f"rows {unit.row_start} to {stop} of shard {unit.shard.path} hold {num_bytes} bytes, more "
        f"than the {MAX_UNIT_BYTES} that a unit may hold; write the shard with shorter lists or "
        "smaller texts, or begin in another output.path with a lower units.pairs, since a job "
        "goes on with the units that it was planned with",
    )


def _read_rows(file: Any, unit: Unit, groups: list[int], start: int, stop: int) -> pa.Table:
    """Rows [start, stop), counted from the first of the row groups."""
    num_rows = max(1, stop - start)
    batch_rows = max(1, _BATCH_PAIRS * num_rows // max(num_rows, unit.num_pairs or num_rows))
    batches = []
    row, num_bytes = 0, 0
    for batch in _iter_batches(file, min(batch_rows, num_rows), groups):
        part = batch[max(0, start - row) : max(0, stop - row)]
        row += len(batch)
        if len(part):
            num_bytes += spelled_out_bytes(part)
            if num_bytes > MAX_UNIT_BYTES:
                raise _too_large(unit, unit.row_start + stop - start, num_bytes)
            batches.append(part)
        if row >= stop:
            break
    table = pa.Table.from_batches(batches, file.schema_arrow)
    if table.num_rows != stop - start:
        raise ShardError(
            "not_parquet",
            f"shard {unit.shard.path} is damaged: rows {unit.row_start} to "
            f"{unit.row_start + stop - start} were to be read, {table.num_rows} are there",
        )
    return table


def _iter_batches(file: Any, batch_rows: int, groups: list[int]) -> Iterator[pa.RecordBatch]:
    """All row groups in one go, for fewer and larger requests, where pyarrow can do that."""
    one_by_one = has_nested_dictionary(file.schema_arrow)
    for together in [[group] for group in groups] if one_by_one else [groups] if groups else []:
        yield from file.iter_batches(batch_rows, together, use_threads=False)
