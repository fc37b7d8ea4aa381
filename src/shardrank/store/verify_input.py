"""The input as `verify` reads it: plain pyarrow, one shard after another, each once."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator
from contextlib import ExitStack
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from shardrank.errors import ShardrankError
from shardrank.store.filesystem import Storage
from shardrank.types import Shard

_BATCH_ROWS = 256


class UnreadableError(Exception):
    """Rows of the input cannot be read; `str(error)` says why."""


class InputRows:
    """The rows of one shard. Asked for in order, they are read in one pass."""

    def __init__(self, storage: Storage, shard: Shard) -> None:
        self._storage = storage
        self._shard = shard
        self._stack = ExitStack()
        self._batches: Iterator[Any] | None = None
        self._waiting: pa.RecordBatch | None = None
        self._row = 0
        self._file: Any = None

    def __enter__(self) -> InputRows:
        return self

    def __exit__(self, *exception: object) -> None:
        self._stack.close()

    def num_rows(self) -> int:
        """What the shard's footer says. Raises UnreadableError."""
        return int(self._guarded(self._num_rows))

    def is_unreadable(self, start: int, stop: int | None) -> bool:
        """Try rows [start, stop), a few at a time; True if they cannot be read."""
        try:
            stop = self.num_rows() if stop is None else stop
            for row in range(start, stop, _BATCH_ROWS):
                self.read(row, min(row + _BATCH_ROWS, stop))
        except UnreadableError:
            return True
        return False

    def read(self, start: int, stop: int) -> pa.Table:
        """Rows [start, stop), with the partition columns. Raises UnreadableError."""
        table = self._guarded(lambda: self._read(start, stop))
        for name, value in self._shard.partition:
            column = pa.array([value] * len(table), pa.string())
            table = table.append_column(name, column)
        return table

    def split_queries(self, column: str) -> set[Any]:
        """Ids whose rows are not contiguous in the shard, pairs layout. Raises UnreadableError."""
        return set(self._guarded(lambda: self._split_queries(column)))

    def _guarded(self, read: Any) -> Any:
        try:
            return read()
        except (ShardrankError, MemoryError):
            raise
        except Exception as error:
            self._batches = None
            raise UnreadableError(
                f"shard {self._shard.path} cannot be read: {type(error).__name__}: {error}"[:300]
            ) from error

    def _open(self) -> Any:
        if self._file is None:
            source = self._stack.enter_context(self._storage.open_input(self._shard.path))
            file = pq.ParquetFile(
                source, buffer_size=1 << 20, pre_buffer=False, page_checksum_verification=True
            )
            self._file = self._stack.enter_context(file)
        return self._file

    def _read(self, start: int, stop: int) -> pa.Table:
        if self._batches is None or self._row != start:
            self._seek(start)
        parts = []
        while self._row < stop:
            batch = self._next()
            part = batch.slice(0, stop - self._row)
            self._waiting = batch.slice(len(part)) if len(part) < len(batch) else None
            self._row += len(part)
            parts.append(part)
        return pa.Table.from_batches(parts, self._open().schema_arrow)

    def _num_rows(self) -> int:
        metadata = self._open().metadata
        held: int = sum(metadata.row_group(i).num_rows for i in range(metadata.num_row_groups))
        if held != metadata.num_rows:
            raise EOFError(f"its footer says {metadata.num_rows} rows, its row groups hold {held}")
        return held

    def _seek(self, row: int) -> None:
        """Begin again at the row group that holds the row, and pass over the rows before it."""
        file = self._open()
        first, group = 0, 0
        while group < file.metadata.num_row_groups - 1:
            size = file.metadata.row_group(group).num_rows
            if first + size > row:
                break
            first, group = first + size, group + 1
        self._batches = batches_of(file, range(group, file.metadata.num_row_groups))
        self._waiting, self._row = None, first
        while self._row < row:
            batch = self._next()
            passed = min(len(batch), row - self._row)
            self._waiting = batch.slice(passed) if passed < len(batch) else None
            self._row += passed

    def _next(self) -> pa.RecordBatch:
        if self._waiting is not None:
            return self._waiting
        batch = next(self._batches, None) if self._batches is not None else None
        if batch is None:
            raise EOFError(f"it ends at row {self._row}")
        return batch

    def _split_queries(self, column: str) -> Iterator[Any]:
        num_runs: Counter[Any] = Counter()
        last: Any = object()
        for batch in self._open().iter_batches(columns=[column], use_threads=False):
            for value in raw_values(batch.column(0)):
                if value != last:
                    num_runs[value] += 1
                last = value
        return (value for value, num in num_runs.items() if num > 1 and value is not None)


def batches_of(file: Any, groups: Iterable[int]) -> Iterator[Any]:
    """Row groups one by one: pyarrow 26 cannot read nested dictionaries across them."""
    for group in groups:
        yield from file.iter_batches(_BATCH_ROWS, [group], use_threads=False)


def raw_values(ids: pa.Array) -> list[Any]:
    """Ids as Python values, texts as bytes: never decoded."""
    if pa.types.is_dictionary(ids.type):
        ids = ids.dictionary_decode()
    if not pa.types.is_integer(ids.type):
        ids = ids.cast(pa.large_binary())
    values: list[Any] = ids.to_pylist()
    return values


def raw(column: Any) -> list[Any]:
    """The same of an array or a chunked array."""
    chunks = column.chunks if isinstance(column, pa.ChunkedArray) else [column]
    return [value for chunk in chunks for value in raw_values(chunk)]


def flat(column: pa.ChunkedArray) -> tuple[Any, Any]:
    """Lists end to end: the number of items of each row, int64 [R], and the items [P]."""
    items = [chunk.flatten() for chunk in column.chunks]
    lengths = [n or 0 for chunk in column.chunks for n in pc.list_value_length(chunk).to_pylist()]
    joined = pa.concat_arrays(items) if items else pa.array([], column.type.value_type)
    return np.asarray(lengths, np.int64), joined
