"""A cascade's choice: which candidates of an earlier output are scored again, and the old order.

A candidate whose earlier rank, score or log-odds is null meets no condition.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa

from shardrank.config import CascadeConfig, InputColumns
from shardrank.errors import ConfigError
from shardrank.schema import is_list
from shardrank.store.footers import Footer
from shardrank.store.unit_table import UnitTable
from shardrank.types import BoolArray, Float64Array, Layout


@dataclass(frozen=True, slots=True)
class Choice:
    """Of the P pairs of a unit.

    is_chosen: bool [P], those that are scored again.
    old_order: float64 [P], what the others are ordered by: the earlier rank, or where the input
        has none the place in the list; infinite for a null rank.
    """

    is_chosen: BoolArray
    old_order: Float64Array


def choose(unit_table: UnitTable, cascade: CascadeConfig) -> Choice:
    """Apply a cascade's conditions to a unit, rejected pairs included."""
    columns = _pair_columns(unit_table)
    is_chosen = np.ones(unit_table.num_pairs, np.bool_)
    if cascade.top_k is not None:
        is_chosen &= _numbers(columns, cascade.rank, unit_table) <= cascade.top_k
    for column, least, most in cascade.bounds:
        values = _numbers(columns, column, unit_table)
        is_chosen &= ~np.isnan(values)
        if least is not None:
            is_chosen &= values >= least
        if most is not None:
            is_chosen &= values <= most
    old_order = unit_table.position.astype(np.float64)
    if cascade.rank in columns and _is_number(columns[cascade.rank].type):
        ranks = _numbers(columns, cascade.rank, unit_table)
        old_order = np.where(np.isnan(ranks), np.inf, ranks)
    return Choice(is_chosen, old_order)


def check_cascade(
    footers: Sequence[Footer], layout: Layout, columns: InputColumns, cascade: CascadeConfig
) -> None:
    """Raise ConfigError if a shard lacks a column that the cascade looks at, or has no numbers."""
    checked: set[int] = set()
    for footer in footers:
        if footer.schema is None or footer.fault is not None or id(footer.schema) in checked:
            continue
        checked.add(id(footer.schema))
        fields = _fields(footer.schema, layout, columns)
        if fields is None:
            continue
        for setting, name in cascade.columns:
            if name not in fields:
                raise ConfigError(
                    f"cascade.{setting} = {name!r}, but shard {footer.shard.path} says nothing of "
                    f"that name about its candidates (it has {', '.join(fields)}); give the "
                    "output of an earlier job as input.path, or name the column"
                )
            if not _is_number(fields[name]):
                raise ConfigError(
                    f"cascade.{setting} = {name!r}, which is {fields[name]} in shard "
                    f"{footer.shard.path}; it must be a number"
                )


def _fields(schema: pa.Schema, layout: Layout, columns: InputColumns) -> dict[str, Any] | None:
    """What a shard says of a pair; None where all its lists are empty."""
    if layout == "pairs":
        return {field.name: field.type for field in reversed(list(schema))}
    data_type = schema.field(columns.candidates).type
    if not is_list(data_type) or not pa.types.is_struct(data_type.value_type):
        return None
    return {field.name: field.type for field in reversed(list(data_type.value_type))}


def _pair_columns(unit_table: UnitTable) -> dict[str, Any]:
    """By name; of columns of one name the first."""
    if unit_table.layout == "pairs":
        names, arrays = unit_table.table.column_names, unit_table.table.columns
    else:
        candidates = unit_table.candidates()
        names, arrays = [f.name for f in candidates.structs.type], candidates.fields()
    return dict(zip(reversed(names), reversed(arrays), strict=True))


def _numbers(columns: dict[str, Any], name: str, unit_table: UnitTable) -> Float64Array:
    """A column as float64 [P], NaN for null; all NaN where a shard of empty lists has none."""
    if name not in columns:
        return np.full(unit_table.num_pairs, np.nan)
    values: Float64Array = columns[name].cast(pa.float64()).to_numpy(zero_copy_only=False)
    return values


def _is_number(data_type: pa.DataType) -> bool:
    return bool(pa.types.is_integer(data_type) or pa.types.is_floating(data_type))
