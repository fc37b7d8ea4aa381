"""`shardrank convert`: shards of lists as shards of pairs, and the other way round."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from functools import partial
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from shardrank.config import InputColumns
from shardrank.errors import InputError, OutputError
from shardrank.job.tasks import each
from shardrank.store.commits import SUCCESS_NAME
from shardrank.store.filesystem import Storage
from shardrank.store.footers import read_footers
from shardrank.store.reader import read_unit
from shardrank.store.relayout import to_nested, to_pairs
from shardrank.store.same_file import create_same
from shardrank.store.units import cut_units, list_shards, output_name
from shardrank.types import Layout, Unit

UNIT_PAIRS = 65_536


@dataclass(frozen=True, slots=True)
class Converted:
    """What was written, and where. rows_without_candidates: have no pair, and are left out."""

    output: str
    layout: Layout
    files: int
    rows: int
    pairs: int
    rows_without_candidates: int

    def as_dict(self) -> dict[str, Any]:
        """Ready for JSON."""
        return asdict(self)


@dataclass(frozen=True, slots=True)
class _Task:
    source: Storage
    target: Storage
    layout: Layout
    columns: InputColumns
    row_columns: tuple[str, ...]
    asked: tuple[str, ...]


def convert(
    input_path: str,
    output: str,
    layout: Layout,
    *,
    columns: InputColumns | None = None,
    row_columns: Sequence[str] = (),
    address: str | None = None,
    unit_pairs: int = UNIT_PAIRS,
) -> Converted:
    """Write an input in the other layout, to a new folder; called again, it goes on.

    layout: that is wanted. columns: what the input's are called. row_columns: to `nested`: columns
    that belong to the query, besides its id, its text and its instruction. address: of a Ray
    cluster.

    Raises InputError if a shard cannot be read, or does not fit; ConfigError if a row's column and
    a candidate's field have one name; OutputError if the folder holds anything else.
    """
    names = columns or InputColumns()
    given: Layout = "nested" if layout == "pairs" else "pairs"
    target = Storage(output, "output")
    source, shards = list_shards(input_path, target)
    footers = read_footers(source, shards, given, names)
    for footer in footers:
        if footer.fault is not None:
            raise InputError(str(footer.fault))
    units = cut_units(footers, unit_pairs, given)
    files = {output_name(unit) for unit in units}
    others = [
        file.path
        for file in target.list_files(recursive=False)
        if file.path not in {*files, SUCCESS_NAME} and file.path[0] != "."
    ]
    if others:
        raise OutputError(
            f"the output folder {target.display()} is not empty (it holds {others[0]}); choose an "
            "empty or new folder"
        )
    of_query = (names.query_id, names.query, names.instruction, *row_columns)
    keys = dict.fromkeys(name for shard in shards for name, _ in shard.partition)
    task = _Task(source, target, layout, names, (*of_query, *keys), tuple(row_columns))
    counts = sorted(each(partial(_convert_unit, task), units, address))
    num_rows, num_pairs = sum(rows for _, rows, _, _ in counts), sum(n for _, _, n, _ in counts)
    success: dict[str, Any] = {
        "format_version": 1,
        "layout": layout,
        "files": sorted(files),
        "rows": num_rows,
        "pairs": num_pairs,
    }
    create_same(target, SUCCESS_NAME, json.dumps(success, separators=(",", ":")).encode())
    return Converted(
        output=target.display(),
        layout=layout,
        files=len(files),
        rows=num_rows,
        pairs=num_pairs,
        rows_without_candidates=sum(empty for _, _, _, empty in counts),
    )


def render_converted(found: Converted) -> str:
    """A line or two for people."""
    line = f"done: {found.rows:,} rows, {found.pairs:,} pairs in {found.output}"
    if found.rows_without_candidates:
        line += f"\n      left out: {found.rows_without_candidates:,} rows without candidates"
    return line


def _convert_unit(task: _Task, unit: Unit) -> tuple[int, int, int, int]:
    """The unit's number, its rows out, its pairs, and its rows without candidates."""
    given: Layout = "nested" if task.layout == "pairs" else "pairs"
    rows = read_unit(task.source, unit, given, task.columns, max_bytes=1 << 62)
    num_empty = 0
    if task.layout == "pairs":
        table = to_pairs(rows)
        num_empty = rows.num_rows - len(set(rows.row_of_pair.tolist()))
    else:
        for name in task.asked:
            if name not in rows.table.column_names:
                raise InputError(
                    f"shard {unit.shard.path} has no column {name!r} (--row-column); it has "
                    f"{', '.join(rows.table.column_names)}"
                )
        table = to_nested(rows, task.row_columns)
    sink = pa.BufferOutputStream()
    pq.write_table(table, sink, compression="zstd", row_group_size=_rows_per_group(task.layout))
    create_same(task.target, output_name(unit), sink.getvalue().to_pybytes())
    return unit.number, table.num_rows, rows.num_pairs, num_empty


def _rows_per_group(layout: Layout) -> int:
    return 65_536 if layout == "pairs" else 1000
