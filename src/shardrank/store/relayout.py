"""From lists of candidates to a row a pair, and back. Pure: a unit's rows in, a table out."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pyarrow as pa

from shardrank.errors import ConfigError, InputError
from shardrank.store.candidates import single_array
from shardrank.store.unit_table import UnitTable


def to_pairs(unit_table: UnitTable) -> pa.Table:
    """A row for each candidate: the row's columns, then the candidate's fields.

    Rows without candidates have no pair. Raises ConfigError where a column and a field have one
    name.
    """
    candidates = unit_table.candidates()
    rows = unit_table.table.drop_columns([unit_table.columns.candidates])
    names = [field.name for field in candidates.structs.type]
    for name in names:
        if name in rows.column_names:
            raise ConfigError(
                f"{name!r} is both a column of shard {unit_table.unit.shard.path} and a field of "
                "its candidates; rename one of the two"
            )
    table = rows.take(pa.array(unit_table.row_of_pair))
    for name, values in zip(names, candidates.fields(), strict=True):
        table = table.append_column(name, values)
    return table


def to_nested(unit_table: UnitTable, row_columns: Sequence[str]) -> pa.Table:
    """A row for each query, and its rows as the list of candidates, in their order.

    row_columns: what belongs to the query; every other column becomes a field of the candidates.

    Raises InputError where the rows of a query do not stand together, or differ in a column that
    belongs to the query, or where a row has no query id.
    """
    table, columns = unit_table.table, unit_table.columns
    shard = unit_table.unit.shard.path
    if unit_table.query_ids.null_count:
        row = unit_table.unit.row_start + unit_table.query_ids.is_null().index(True).as_py()
        raise InputError(f"row {row} of shard {shard} has no query id; give each row one")
    if unit_table.list_split.any():
        raise InputError(
            f"shard {shard} has a query whose rows do not stand together; sort it by "
            f"{columns.query_id}"
        )
    firsts = np.flatnonzero(unit_table.position == 0)
    rows = table.select([name for name in table.column_names if name in row_columns])
    heads = rows.take(pa.array(firsts))
    again = heads.take(pa.array(unit_table.list_index))
    for name in rows.column_names:
        same = [
            one == other
            for one, other in zip(
                single_array(rows.column(name)).to_pylist(),
                single_array(again.column(name)).to_pylist(),
                strict=True,
            )
        ]
        if not all(same):
            row = unit_table.unit.row_start + same.index(False)
            raise InputError(
                f"row {row} of shard {shard} has another {name!r} than the first row of its "
                "query; one row of the layout nested has one"
            )
    inside = [name for name in table.column_names if name not in row_columns]
    arrays = [single_array(table.column(name)) for name in inside]
    fields = [pa.field(name, array.type) for name, array in zip(inside, arrays, strict=True)]
    offsets = pa.array(np.append(firsts, table.num_rows), pa.int32())
    structs = pa.StructArray.from_arrays(arrays, fields=fields)
    return heads.append_column(columns.candidates, pa.ListArray.from_arrays(offsets, structs))
