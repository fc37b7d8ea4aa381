"""The candidates of all rows as one flat array."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from shardrank.types import Int64Array


@dataclass(frozen=True, slots=True)
class Candidates:
    """A column of lists of structs, end to end.

    lengths: int64 [R], 0 for a null list.
    structs: the structs of all lists, StructArray [P].
    """

    lengths: Int64Array
    structs: Any

    @staticmethod
    def of(table: pa.Table, name: str) -> Candidates:
        """Flatten a column of any kind of list.

        Each chunk is flattened as it is: a cast of a sliced list view to a list loses its items
        without an error (pyarrow 26).
        """
        column = table.column(name)
        chunks = [chunk.flatten() for chunk in column.chunks]
        lengths = pc.fill_null(pc.list_value_length(column), 0).to_numpy().astype(np.int64)
        structs = pa.concat_arrays(chunks) if chunks else pa.array([], column.type.value_type)
        if len(structs) != lengths.sum():
            raise pa.ArrowInvalid(f"{len(structs)} candidates in lists of {lengths.sum()}")
        return Candidates(lengths, structs)

    def field(self, name: str) -> pa.Array:
        """One field of all candidates, null where the candidate is null."""
        return self.fields()[self.structs.type.get_field_index(name)]

    def fields(self) -> list[pa.Array]:
        """All fields, in their order, each null where the candidate is null."""
        fields: list[pa.Array] = self.structs.flatten()
        return fields

    def null_indices(self) -> list[int]:
        """The candidates that are null as a whole."""
        is_null = self.structs.is_null().to_numpy(zero_copy_only=False)
        indices: list[int] = np.flatnonzero(is_null).tolist()
        return indices


def single_array(column: pa.ChunkedArray) -> pa.Array:
    """A column as one array."""
    if column.num_chunks == 1:
        return column.chunk(0)
    return pa.concat_arrays(column.chunks) if column.num_chunks else pa.array([], column.type)
