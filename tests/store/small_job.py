"""A whole job in miniature: rows in, a score that is known, every unit committed."""

from __future__ import annotations

import hashlib
import io
from collections.abc import Sequence
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from shardrank.config import InputColumns, OutputColumns
from shardrank.errors import ShardError
from shardrank.store.columns import check_columns, check_split_queries
from shardrank.store.commits import committed
from shardrank.store.filesystem import Storage
from shardrank.store.footers import read_footers
from shardrank.store.output import Output, build_output
from shardrank.store.plan import MIN_SCORE, TOP_K, Plan, new_plan, open_plan
from shardrank.store.reader import read_unit
from shardrank.store.unit_table import UnitTable
from shardrank.store.units import cut_units, list_shards
from shardrank.store.writer import (
    Attempt,
    commit_tombstone,
    commit_unit,
    read_footers_of,
    read_tombstones,
    write_success,
)
from shardrank.types import Float32Array, Layout, Rejection, Shard, Unit

CANDIDATE = pa.struct([("doc_id", pa.string()), ("text", pa.string())])
NESTED = pa.schema(
    [("query_id", pa.string()), ("query", pa.string()), ("candidates", pa.list_(CANDIDATE))]
)
PAIRS = pa.schema([(name, pa.string()) for name in ("query_id", "query", "doc_id", "text")])
SHARD = Shard("a.parquet", 1, "1", None)


def nested(*texts: Sequence[str | None] | None, **columns: Any) -> pa.Table:
    """One row for each list of texts; a text "..." of a candidate is its document."""
    rows = [
        {
            "query_id": f"q{i}",
            "query": f"query {i}",
            "candidates": None
            if row is None
            else [{"doc_id": f"q{i}d{j}", "text": text} for j, text in enumerate(row)],
        }
        for i, row in enumerate(texts)
    ]
    table = pa.Table.from_pylist(rows, NESTED)
    for name, values in columns.items():
        column = values if isinstance(values, pa.Array) else pa.array(values)
        index = table.schema.get_field_index(name)
        if index < 0:
            table = table.append_column(name, column)
        else:
            table = table.set_column(index, name, column)
    return table


def pairs(query_ids: Sequence[str | None], **columns: Any) -> pa.Table:
    """One row for each query id; `columns` replace or add."""
    rows = {
        "query_id": query_ids,
        "query": [f"query {query_id}" for query_id in query_ids],
        "doc_id": [f"d{i}" for i in range(len(query_ids))],
        "text": [f"text {i * 7 % 5}" for i in range(len(query_ids))],
        **columns,
    }
    return pa.table({name: pa.array(values) for name, values in rows.items()}).cast(
        pa.schema(
            [
                *PAIRS,
                *(
                    pa.field(name, pa.array(columns[name]).type)
                    for name in columns
                    if name not in PAIRS.names
                ),
            ]
        )
    )


def parquet(table: pa.Table, **options: Any) -> bytes:
    """A table as the bytes of a Parquet file."""
    sink = io.BytesIO()
    pq.write_table(table, sink, **options)
    return sink.getvalue()


def unit_of(table: pa.Table, layout: Layout = "nested", **options: Any) -> UnitTable:
    """A table as the unit that it would be read as."""
    unit = Unit(0, SHARD, 0, table.num_rows, None)
    return UnitTable.of(unit, layout, InputColumns(), options.pop("max_bytes", 1000), table)


def known_score(texts: Sequence[str | None]) -> Float32Array:
    """Log-odds that depend on the text alone, with ties between different texts."""
    return np.array(
        [
            np.nan if text is None else hashlib.sha256(text.encode()).digest()[0] // 16 / 4 - 2
            for text in texts
        ],
        np.float32,
    )


def outcome(
    unit_table: UnitTable,
    top_k: int | None = None,
    min_score: float | None = None,
    extra: Sequence[Rejection] = (),
) -> Output:
    """The unit's output with known scores."""
    num_pairs = unit_table.num_pairs
    return build_output(
        unit_table,
        known_score(unit_table.texts),
        np.full(num_pairs, 7, np.int32),
        np.zeros(num_pairs, np.bool_),
        extra,
        columns=OutputColumns(),
        top_k=top_k,
        min_score=min_score,
    )


def propose(
    input_path: str,
    output: Storage,
    *,
    layout: Layout = "nested",
    unit_pairs: int = 4,
    top_k: int | None = None,
    min_score: float | None = None,
    model: str = "tiny",
) -> tuple[Storage, Plan]:
    """The plan that a job would begin with."""
    columns, output_columns = InputColumns(), OutputColumns()
    storage, shards = list_shards(input_path, output)
    footers = read_footers(storage, shards, layout, columns)
    check_columns(footers, layout, columns, output_columns)
    check_split_queries(footers, top_k, min_score)
    units = cut_units(footers, unit_pairs, layout)
    shape = {TOP_K: top_k, MIN_SCORE: min_score}
    return storage, new_plan({"model": model}, shape, layout, columns, output_columns, units)


def commit(storage: Storage, output: Storage, plan: Plan, unit: Unit, attempt: str = "1") -> str:
    """Read, score and commit one unit; the receipt's outcome."""
    shape = plan.output_fields
    try:
        unit_table = read_unit(storage, unit, plan.layout, plan.input_columns, 1000)
    except ShardError as error:
        return commit_tombstone(output, unit, plan.fingerprints, error.code, str(error)).outcome
    unit_table = UnitTable.from_ipc(unit_table.to_ipc())
    result = outcome(unit_table, shape[TOP_K], shape[MIN_SCORE])
    about = Attempt(attempt, {"onnxruntime": "none"}, {"read": 0.1, "score": 0.2})
    return commit_unit(output, unit, plan.fingerprints, result, about).outcome


def do_job(input_path: str, output: Storage, **options: Any) -> Plan:
    """Do what is pending, and write _SUCCESS."""
    storage, proposed = propose(input_path, output, **options)
    plan = open_plan(output, proposed)
    done = committed(output, plan).done
    for unit in plan.units:
        if unit.number not in done:
            commit(storage, output, plan, unit)
    finish(output, plan)
    return plan


def finish(output: Storage, plan: Plan) -> None:
    """Write _SUCCESS."""
    done = committed(output, plan)
    footers = read_footers_of(output, plan, sorted(done.data))
    write_success(output, plan, footers, read_tombstones(output, done.tombstones))
