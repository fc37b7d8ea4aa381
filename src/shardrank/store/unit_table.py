"""A unit's rows as they were read, and the pairs in them."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass, fields, replace
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from shardrank.config import InputColumns
from shardrank.store.candidates import Candidates
from shardrank.store.validation import CheckedPairs, check_nested, check_pairs, id_text
from shardrank.types import BoolArray, Layout, Rejection, Shard, Unit

_METADATA_KEY = b"shardrank"


@dataclass(frozen=True, slots=True)
class UnitTable(CheckedPairs):
    """The rows of a unit with all their columns, and their pairs (see CheckedPairs).

    table: pa.Table [R], hive partition columns among its columns.
    list_split: bool [L], True for a query whose rows are not contiguous in its shard (pairs
        layout): it has no ranks.
    """

    unit: Unit
    layout: Layout
    columns: InputColumns
    max_bytes: int
    table: Any
    list_split: BoolArray

    @staticmethod
    def of(
        unit: Unit,
        layout: Layout,
        columns: InputColumns,
        max_bytes: int,
        table: pa.Table,
        split_ids: pa.Array | None = None,
    ) -> UnitTable:
        """Check a table. split_ids: large_binary, the ids of queries that are not contiguous."""
        check = check_nested if layout == "nested" else check_pairs
        pairs = check(table, columns, max_bytes, unit.row_start)
        num_lists = table.num_rows
        if layout == "pairs":
            num_lists = int(pairs.list_index[-1]) + 1 if len(pairs.list_index) else 0
        list_split = np.zeros(num_lists, np.bool_)
        if layout == "pairs" and split_ids is not None and num_lists:
            firsts = pairs.query_ids.take(pa.array(np.flatnonzero(pairs.position == 0)))
            is_split = pc.is_in(firsts, value_set=split_ids)
            list_split = is_split.to_numpy(zero_copy_only=False)
        return UnitTable(
            **{field.name: getattr(pairs, field.name) for field in fields(pairs)},
            unit=unit,
            layout=layout,
            columns=columns,
            max_bytes=max_bytes,
            table=table,
            list_split=list_split,
        )

    @property
    def num_rows(self) -> int:
        """Rows, rejected ones included."""
        return len(self.row_ok)

    @property
    def num_pairs(self) -> int:
        """Pairs, rejected ones included."""
        return len(self.pair_ok)

    def reject_row(self, row: int, code: str, message: str) -> Rejection:
        """Reject a whole row, counted from 0 in the unit, with all its pairs."""
        if self.layout == "pairs":
            return self.reject_pair(row, code, message)
        num_pairs = int(np.count_nonzero(self.row_of_pair == row))
        query_id = id_text(self.query_ids, row)
        return Rejection(self.unit.row_start + row, None, code, message, num_pairs, query_id)

    def reject_pair(self, pair: int, code: str, message: str) -> Rejection:
        """Reject one pair, counted from 0 in the unit; in the pairs layout that is its row."""
        row = int(self.row_of_pair[pair])
        return Rejection(
            row=self.unit.row_start + row,
            position=int(self.position[pair]) if self.layout == "nested" else None,
            code=code,
            message=message,
            num_pairs=1,
            query_id=id_text(self.query_ids, row),
            doc_id=id_text(self.doc_ids, pair),
        )

    def candidates(self) -> Candidates:
        """The candidates of the nested layout, P in all."""
        return Candidates.of(self.table, self.columns.candidates)

    def to_ipc(self) -> bytes:
        """The unit as an Arrow IPC stream: the rows, and what is needed to check them again."""
        split_rows: list[int] = []
        if self.list_split.any():
            split_rows = np.flatnonzero(self.position == 0)[self.list_split].tolist()
        header = {
            "unit": asdict(self.unit),
            "layout": self.layout,
            "columns": self.columns.model_dump(),
            "max_bytes": self.max_bytes,
            "split_rows": split_rows,
        }
        metadata = {_METADATA_KEY: json.dumps(header).encode()}
        sink = pa.BufferOutputStream()
        table = self.table.replace_schema_metadata(metadata)
        with pa.ipc.new_stream(sink, table.schema) as writer:
            writer.write_table(table)
        data: bytes = sink.getvalue().to_pybytes()
        return data

    @staticmethod
    def from_ipc(data: bytes | pa.Buffer) -> UnitTable:
        """The inverse of to_ipc; the check is done again, with the same result."""
        table = pa.ipc.open_stream(data).read_all()
        header = json.loads(table.schema.metadata[_METADATA_KEY])
        shard = header["unit"].pop("shard")
        shard["partition"] = tuple((name, value) for name, value in shard["partition"])
        unit_table = UnitTable.of(
            Unit(shard=Shard(**shard), **header["unit"]),
            header["layout"],
            InputColumns(**header["columns"]),
            header["max_bytes"],
            table.replace_schema_metadata(None),
        )
        if not header["split_rows"]:
            return unit_table
        list_split = np.zeros(len(unit_table.list_split), np.bool_)
        list_split[unit_table.list_index[header["split_rows"]]] = True
        return replace(unit_table, list_split=list_split)
