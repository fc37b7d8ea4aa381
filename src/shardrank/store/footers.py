"""What the footers of shards say: all that planning may know of an input."""

from __future__ import annotations

from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import numpy as np
import pyarrow.parquet as pq
from numpy.typing import NDArray

from shardrank.config import InputColumns
from shardrank.errors import ShardError
from shardrank.store.column_chunks import ColumnChunks
from shardrank.store.columns import column_fault
from shardrank.store.faults import shard_fault
from shardrank.store.filesystem import Storage
from shardrank.store.queries import read_query_runs
from shardrank.types import Int64Array, Layout, Shard

_NUM_THREADS_LOCAL = 4
_NUM_THREADS_REMOTE = 32
_SHARDS_A_CALL = 16


@dataclass(frozen=True, slots=True)
class RowGroup:
    """A row group's sizes.

    num_pairs: an upper bound, items plus null lists plus empty lists.
    num_text_bytes, num_bytes: of the documents' text and of all columns, uncompressed but as
        encoded: a text that occurs often may count once.
    """

    num_rows: int
    num_pairs: int
    num_text_bytes: int
    num_bytes: int


@dataclass(frozen=True, slots=True)
class Footer:
    """What is known of a shard before it is read.

    shard: with num_rows and num_split_queries filled in.
    schema: None where the footer cannot be read; one object for all shards of the same schema.
    fault: why the shard cannot be used; None if nothing is known against it.
    query_starts: pairs layout only: one bit for each row, set where a query begins, uint8
        [ceil(num_rows / 8)].
    """

    shard: Shard
    row_groups: tuple[RowGroup, ...] = ()
    schema: Any = None
    fault: ShardError | None = None
    query_starts: NDArray[np.uint8] | None = None

    def next_query_starts(self, rows: Int64Array) -> Int64Array:
        """For each row, the first row at or after it where a query begins; int64 [N].

        num_rows where there is none.
        """
        if self.query_starts is None or self.shard.num_rows is None:
            return rows
        bits = np.unpackbits(self.query_starts, count=self.shard.num_rows)
        starts = np.append(np.flatnonzero(bits), self.shard.num_rows)
        return starts[np.searchsorted(starts, rows)].astype(np.int64)


def read_footers(
    storage: Storage, shards: Sequence[Shard], layout: Layout, columns: InputColumns
) -> list[Footer]:
    """Read the footers of all shards, several at a time, in the order given.

    In the pairs layout the query_id column is read as well, since a footer does not say where a
    query begins.

    Raises InputError if the store fails; a shard that is broken only gets a fault.
    """
    schemas: dict[bytes, Any] = {}
    read = partial(_read, storage, layout=layout, columns=columns, schemas=schemas)
    num_threads = _NUM_THREADS_LOCAL if storage.is_local else _NUM_THREADS_REMOTE

    def read_some(start: int) -> list[Footer]:
        return [read(shard) for shard in shards[start : start + _SHARDS_A_CALL]]

    with ThreadPoolExecutor(num_threads, thread_name_prefix="footers") as threads:
        # A call that waits takes more memory than a footer, so there are few of them.
        parts = threads.map(read_some, range(0, len(shards), _SHARDS_A_CALL))
        return [footer for part in parts for footer in part]


def _read(
    storage: Storage,
    shard: Shard,
    layout: Layout,
    columns: InputColumns,
    schemas: dict[bytes, Any],
) -> Footer:
    with shard_fault(storage, shard) as caught:
        return _read_file(storage, shard, layout, columns, schemas)
    return Footer(shard, fault=caught.fault)


def _read_file(
    storage: Storage,
    shard: Shard,
    layout: Layout,
    columns: InputColumns,
    schemas: dict[bytes, Any],
) -> Footer:
    with (
        storage.open_input(shard.path, shard.size) as source,
        pq.ParquetFile(source, page_checksum_verification=True) as file,
    ):
        groups = _row_groups(file.metadata, layout, columns)
        num_rows = sum(group.num_rows for group in groups)
        if num_rows != file.metadata.num_rows or any(group.num_rows < 0 for group in groups):
            raise ShardError(
                "not_parquet",
                f"shard {shard.path} is damaged: its footer says {file.metadata.num_rows} rows, "
                f"its row groups hold {num_rows}",
            )
        schema = file.schema_arrow.remove_metadata()
        schema = schemas.setdefault(schema.serialize().to_pybytes(), schema)
        shard = replace(shard, num_rows=num_rows)
        fault = column_fault(schema, layout, columns, shard)
        if fault is not None or layout == "nested":
            return Footer(shard, groups, schema, fault)
        starts, split_ids = read_query_runs(file, columns.query_id)
    shard = replace(shard, num_split_queries=len(split_ids))
    return Footer(shard, groups, schema, None, np.packbits(starts))


def _row_groups(metadata: Any, layout: Layout, columns: InputColumns) -> tuple[RowGroup, ...]:
    leaf = _text_leaf(metadata, layout, columns)
    chunks = None if leaf is None else ColumnChunks(metadata, leaf)
    groups = []
    for i in range(metadata.num_row_groups):
        group = metadata.row_group(i)
        num_pairs, num_text_bytes = group.num_rows, 0
        if chunks is not None:
            num_pairs, num_text_bytes = chunks.sizes(i)
        groups.append(RowGroup(group.num_rows, num_pairs, num_text_bytes, group.total_byte_size))
    return tuple(groups)


def _text_leaf(metadata: Any, layout: Layout, columns: InputColumns) -> int | None:
    """The number of the leaf column that holds the documents' text; None if it is not there."""
    paths = [metadata.schema.column(i).path for i in range(metadata.num_columns)]
    if layout == "pairs":
        return paths.index(columns.text) if columns.text in paths else None
    inside = [
        (len(path), i)
        for i, path in enumerate(paths)
        if path.startswith(f"{columns.candidates}.") and path.endswith(f".{columns.text}")
    ]
    return min(inside)[1] if inside else None
