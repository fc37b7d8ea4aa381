"""Where a query begins and ends in the pairs layout, and which queries lie in several places."""

from __future__ import annotations

from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from shardrank.types import BoolArray

_BATCH_ROWS = 65_536


def as_bytes(values: pa.Array) -> pa.Array:
    """Texts or integers as large_binary: equal where they are equal, and never decoded."""
    if pa.types.is_dictionary(values.type):
        values = values.dictionary_decode()
    return values.cast(pa.large_string()).cast(pa.large_binary())


def run_starts(values: pa.Array) -> BoolArray:
    """True at each value that differs from the one before it, and at the first; bool [N].

    Nulls are equal to each other.
    """
    starts = np.ones(len(values), np.bool_)
    if len(values) > 1:
        here, before = values[1:], values[:-1]
        differs = pc.fill_null(pc.not_equal(here, before), False)
        one_is_null = pc.xor(here.is_null(), before.is_null())
        starts[1:] = pc.or_(differs, one_is_null).to_numpy(zero_copy_only=False)
    return starts


def read_query_runs(file: Any, column: str) -> tuple[BoolArray, pa.Array]:
    """Read the query ids of a Parquet file, batch by batch.

    Returns where a query begins, bool [num_rows], and the ids (as bytes) that begin more than
    once: queries whose rows are not contiguous.
    """
    starts: list[BoolArray] = [np.zeros(0, np.bool_)]
    firsts: list[pa.Array] = [pa.array([], pa.large_binary())]
    last: pa.Array | None = None
    for batch in file.iter_batches(_BATCH_ROWS, columns=[column], use_threads=False):
        ids = as_bytes(batch.column(0))
        begins = run_starts(ids)
        if last is not None and len(begins):
            begins[0] = not ids[:1].equals(last)
        starts.append(begins)
        firsts.append(ids.filter(pa.array(begins)))
        last = ids[-1:]
    runs = pa.chunked_array(firsts).drop_null().value_counts()
    split_ids = runs.field("values").filter(pc.greater(runs.field("counts"), 1))
    return np.concatenate(starts), split_ids
