"""Types that pyarrow reads but cannot work with, found and made plain."""

from __future__ import annotations

from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from shardrank.config import InputColumns
from shardrank.schema import is_list

_PLAIN = {pa.string_view(): pa.string(), pa.binary_view(): pa.binary()}


def has_nested_dictionary(schema: pa.Schema) -> bool:
    """True if a list or struct holds dictionaries.

    pyarrow 26 cannot read such a column across row groups ("Nested data conversions not
    implemented for chunked array outputs"), and reads each row group by itself.
    """
    return any(
        _holds(child, pa.types.is_dictionary) for field in schema for child in _children(field.type)
    )


def without_views(table: pa.Table) -> pa.Table:
    """The table with string and binary views as strings and bytes.

    pyarrow 26 can neither take rows of a view nor write one that stands in a list.
    """
    for index, field in enumerate(table.schema):
        if _holds(field.type, _PLAIN.__contains__):
            column = table.column(index).cast(_without_views(field.type))
            table = table.set_column(index, field.name, column)
    return table


def with_structs(table: pa.Table, columns: InputColumns) -> pa.Table:
    """The table with candidates of type list<null>, of which none was ever there, as structs."""
    index = table.column_names.index(columns.candidates)
    column = table.column(index)
    if not pa.types.is_null(column.type.value_type):
        return table
    fields = [(columns.doc_id, pa.string()), (columns.text, pa.string())]
    lengths = pc.fill_null(pc.list_value_length(column), 0).to_numpy()
    offsets = np.concatenate([[0], np.cumsum(lengths)])
    lists = pa.LargeListArray.from_arrays(
        pa.array(offsets, pa.int64()),
        pa.nulls(int(offsets[-1]), pa.struct(fields)),
        mask=pa.array(column.is_null().to_numpy()),
    )
    return table.set_column(index, columns.candidates, lists)


def _children(data_type: pa.DataType) -> list[pa.DataType]:
    return [data_type.field(i).type for i in range(data_type.num_fields)]


def _holds(data_type: pa.DataType, wanted: Any) -> bool:
    return wanted(data_type) or any(_holds(child, wanted) for child in _children(data_type))


def _without_views(data_type: pa.DataType) -> pa.DataType:
    if pa.types.is_struct(data_type):
        return pa.struct([_plain_field(field) for field in data_type])
    if pa.types.is_map(data_type):
        return pa.map_(_without_views(data_type.key_type), _without_views(data_type.item_type))
    if pa.types.is_fixed_size_list(data_type):
        return pa.list_(_plain_field(data_type.value_field), data_type.list_size)
    if is_list(data_type):
        kinds = {
            pa.types.is_list: pa.list_,
            pa.types.is_large_list: pa.large_list,
        }
        for is_kind, make in kinds.items():
            if is_kind(data_type):
                return make(_plain_field(data_type.value_field))
    return _PLAIN.get(data_type, data_type)


def _plain_field(field: pa.Field) -> pa.Field:
    return field.with_type(_without_views(field.type))
