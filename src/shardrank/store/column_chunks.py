"""Sizes of a column within a row group, asked for in a way that a damaged footer survives."""

from __future__ import annotations

import io
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq


class ColumnChunks:
    """The chunks of one leaf column in the row groups of a file.

    `metadata.row_group(i).column(j)` ends the whole process where a chunk's entry in the footer is
    damaged or encrypted (pyarrow 26: a C++ exception that nothing catches). Reading meets the same
    fault first, and raises it. So a read is begun on a file without content: it either finds the
    fault in the footer, or comes as far as to ask for bytes, and then the entries are sound: with
    pre_buffer it looks at all of them before.
    """

    def __init__(self, metadata: Any, leaf: int) -> None:
        """Raises what pyarrow raises for a damaged file."""
        self._metadata = metadata
        self._leaf = leaf
        groups = list(range(metadata.num_row_groups))
        no_content = pa.PythonFile(_NoContent(), mode="r")
        file = pq.ParquetFile(no_content, metadata=metadata, pre_buffer=True)
        try:
            if groups:
                file.reader.read_row_groups(groups, column_indices=[leaf], use_threads=False)
        except _AskedForBytesError as error:
            # Arrow keeps the error as long as the file, and its frames would keep the file: for
            # ever, since the garbage collector cannot see what Arrow holds.
            error.__traceback__ = None

    def sizes(self, row_group: int) -> tuple[int, int]:
        """Number of values (items, plus null and empty lists) and uncompressed bytes."""
        chunk = self._metadata.row_group(row_group).column(self._leaf)
        return chunk.num_values, chunk.total_uncompressed_size


class _AskedForBytesError(Exception):
    pass


class _NoContent(io.RawIOBase):
    """A file of unknown content, as large as any."""

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:
        return 1 << 62 if whence == io.SEEK_END else offset

    def tell(self) -> int:
        return 1 << 62

    def read(self, size: int | None = -1) -> bytes:
        raise _AskedForBytesError
