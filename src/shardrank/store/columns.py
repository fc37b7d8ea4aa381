"""Whether shards have the columns that the configuration names."""

from __future__ import annotations

import difflib
from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING, Any

import pyarrow as pa

from shardrank.config import InputColumns, OutputColumns
from shardrank.errors import ConfigError, InputError, ShardError
from shardrank.schema import ROW_FIELDS, is_list, is_text, pair_fields
from shardrank.types import Layout, Shard

if TYPE_CHECKING:
    from shardrank.store.footers import Footer


def column_fault(
    schema: pa.Schema, layout: Layout, columns: InputColumns, shard: Shard
) -> ShardError | None:
    """What keeps a shard of this schema from being read; None if nothing does.

    Codes: missing_column, duplicate_column, wrong_type.
    """
    fields: Iterable[pa.Field] = list(schema)
    place = f"shard {shard.path}"
    fault = _id_fault(fields, "query_id", columns, place)
    fault = fault or _text_fault(fields, "query", columns, place)
    if columns.instruction in schema.names:
        fault = fault or _text_fault(fields, "instruction", columns, place)
    if layout == "nested":
        fault = fault or _list_fault(fields, columns, place)
        if fault is not None:
            return fault
        item = schema.field(columns.candidates).type.value_type
        if pa.types.is_null(item):
            return None
        fields = list(item)
        place = f"column {columns.candidates!r} of shard {shard.path}"
    fault = fault or _id_fault(fields, "doc_id", columns, place)
    return fault or _text_fault(fields, "text", columns, place)


def check_columns(
    footers: Sequence[Footer],
    layout: Layout,
    input_columns: InputColumns,
    output_columns: OutputColumns,
    *,
    pair_hash: bool = False,
) -> None:
    """Refuse what would cost every shard, or mix two columns of one name.

    A fault of some shards only is left to those shards.

    Raises InputError if no readable shard has the columns, or if a folder `key=value` and a
    column of the file have one name; ConfigError if a column that shardrank adds is there already.
    """
    readable = [footer for footer in footers if footer.schema is not None]
    faults = [footer.fault for footer in readable if footer.fault is not None]
    if faults and len(faults) == len(readable):
        others = f" (and {len(faults) - 1} more shards)" if len(faults) > 1 else ""
        raise InputError(f"{faults[0]}{others}{_layout_hint(readable[0].schema, layout)}")
    seen: set[tuple[int, tuple[str, ...]]] = set()
    for footer in readable:
        keys = tuple(name for name, _ in footer.shard.partition)
        # Schemas are shared between footers, so that this is done once per schema.
        if footer.fault is not None or (id(footer.schema), keys) in seen:
            continue
        seen.add((id(footer.schema), keys))
        _check_partition(footer.schema, keys, footer.shard)
        _check_collisions(footer.schema, keys, layout, input_columns, output_columns, pair_hash)


def check_split_queries(
    footers: Sequence[Footer], top_k: int | None, min_score: float | None
) -> int:
    """Count the queries, in the pairs layout, whose rows are not contiguous in their shard.

    Such a query has no ranks, so nothing can be cut by them: raises InputError, naming the first
    shard, if there is one and top_k or min_score is set.
    """
    split = [footer.shard for footer in footers if footer.shard.num_split_queries]
    total = sum(shard.num_split_queries for shard in split)
    if split and (top_k is not None or min_score is not None):
        raise InputError(
            f"{split[0].num_split_queries} queries of shard {split[0].path} ({total} in all shards)"
            " have rows that do not stand together, so they cannot be ranked and cut; sort the "
            "shards by query_id, or leave out output.top_k and output.min_score"
        )
    return total


def _check_partition(schema: pa.Schema, keys: tuple[str, ...], shard: Shard) -> None:
    for key in keys:
        if key in schema.names:
            raise InputError(
                f"shard {shard.path} has a column {key!r} beside its folder {key}=...; rename one "
                "of the two, or give the folder itself as input.path"
            )


def _check_collisions(
    schema: pa.Schema,
    keys: tuple[str, ...],
    layout: Layout,
    columns: InputColumns,
    output_columns: OutputColumns,
    pair_hash: bool,
) -> None:
    top = [*schema.names, *keys]
    if layout == "nested":
        struct = schema.field(columns.candidates).type.value_type
        inside = [field.name for field in struct] if pa.types.is_struct(struct) else []
        taken = dict.fromkeys(pair_fields(pair_hash), inside)
        taken |= dict.fromkeys(ROW_FIELDS, top)
    else:
        taken = dict.fromkeys(pair_fields(pair_hash), top)
    clashes = [key for key, names in taken.items() if getattr(output_columns, key) in names]
    if clashes:
        found = (f"output.columns.{key} = {getattr(output_columns, key)!r}" for key in clashes)
        others = " ".join(f"--set output.columns.{key}=rerank_{key}" for key in clashes)
        raise ConfigError(
            f"{', '.join(found)}: the input has a column of that name already; choose another "
            f"name, such as {others}. To score an output of shardrank again, see [cascade]"
        )


def _find(
    fields: Iterable[pa.Field], setting: str, columns: InputColumns, place: str
) -> tuple[Any, ShardError | None]:
    """The type of the column, or the fault that there is not exactly one."""
    name = getattr(columns, setting)
    names = [field.name for field in fields]
    found = [field.type for field in fields if field.name == name]
    if len(found) == 1:
        return found[0], None
    if found:
        return None, ShardError(
            "duplicate_column", f"{place} has {len(found)} columns {name!r}; rename all but one"
        )
    free = [other for other in names if other not in columns.model_dump().values()]
    near = difflib.get_close_matches(name, free, n=1, cutoff=0.5)
    hint = f'; did you mean input.columns.{setting} = "{near[0]}"?' if near else ""
    return None, ShardError(
        "missing_column",
        f"{place} has no column {name!r} (input.columns.{setting}); it has "
        f"{', '.join(names[:30]) or 'none'}{hint}",
    )


def _text_fault(
    fields: Iterable[pa.Field], setting: str, columns: InputColumns, place: str
) -> ShardError | None:
    name = getattr(columns, setting)
    data_type, fault = _find(fields, setting, columns, place)
    if fault is None and not (is_text(data_type) or pa.types.is_null(data_type)):
        return _wrong_type(place, setting, name, data_type, "text")
    return fault


def _id_fault(
    fields: Iterable[pa.Field], setting: str, columns: InputColumns, place: str
) -> ShardError | None:
    name = getattr(columns, setting)
    data_type, fault = _find(fields, setting, columns, place)
    if fault is None and not (
        is_text(data_type) or pa.types.is_integer(data_type) or pa.types.is_null(data_type)
    ):
        return _wrong_type(place, setting, name, data_type, "text or an integer")
    return fault


def _list_fault(fields: Iterable[pa.Field], columns: InputColumns, place: str) -> ShardError | None:
    name = columns.candidates
    data_type, fault = _find(fields, "candidates", columns, place)
    # list<null> is what becomes of a shard all of whose lists are empty.
    if fault is None and not (
        is_list(data_type)
        and (pa.types.is_struct(data_type.value_type) or pa.types.is_null(data_type.value_type))
    ):
        wanted = f"a list of structs {{{columns.doc_id}, {columns.text}}}"
        return _wrong_type(place, "candidates", name, data_type, wanted)
    return fault


def _wrong_type(place: str, setting: str, name: str, data_type: Any, wanted: str) -> ShardError:
    return ShardError(
        "wrong_type",
        f"{place}: column {name!r} (input.columns.{setting}) is {str(data_type)[:200]}, "
        f"but must be {wanted}",
    )


def _layout_hint(schema: pa.Schema, layout: Layout) -> str:
    has_lists = any(
        is_list(field.type) and pa.types.is_struct(field.type.value_type) for field in schema
    )
    if layout == "pairs" and has_lists:
        return '; a column of lists of structs is there: is this input.layout = "nested"?'
    if layout == "nested" and not has_lists:
        return '; no column is a list of structs: is this input.layout = "pairs"?'
    return ""
