"""The rows of a finished output: only what the job committed, and the same view of both layouts.

Files of another origin, of another job or of a unit that never finished are not read.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from shardrank.errors import IncompleteError, InputError, OutputError
from shardrank.schema import PAIR_FIELDS, PAIR_HASH
from shardrank.store.candidates import Candidates
from shardrank.store.commits import SUCCESS_NAME, committed
from shardrank.store.filesystem import Storage
from shardrank.store.plan import PLAN_NAME, Plan, load_plan
from shardrank.store.units import output_name
from shardrank.store.writer import read_footers_of
from shardrank.types import Int64Array


@dataclass(frozen=True, slots=True)
class Ranked:
    """The queries of one unit and their pairs, best first.

    rows: one row a query: the row's own columns (nested), or those of the query's first pair.
    pairs: one row a pair, all queries end to end; log_odds, score, rank, position, num_tokens,
        truncated, doc_id and text under these names, other fields under their own.
    offsets: int64 [num_queries + 1]; query i has the pairs offsets[i]:offsets[i + 1].
    num_unranked: pairs layout: pairs of queries whose rows are not contiguous, which have no rank
        and are left out.
    """

    rows: pa.Table
    pairs: pa.Table
    offsets: Int64Array
    num_unranked: int = 0

    def __len__(self) -> int:
        return len(self.offsets) - 1

    def scored(self) -> Ranked:
        """Without the pairs that a cascade passed over, which have a rank but no log-odds."""
        is_scored = self.pairs.column("log_odds").is_valid()
        num_before = np.cumsum([0, *is_scored.to_numpy()])
        pairs = self.pairs.filter(is_scored)
        return Ranked(self.rows, pairs, num_before[self.offsets], self.num_unranked)


@dataclass(frozen=True, slots=True)
class Results:
    """An output folder that can be read.

    numbers: of the units that have a data file, in order; footers: of these, in the same order.
    """

    storage: Storage
    plan: Plan
    numbers: tuple[int, ...]
    footers: tuple[Mapping[str, Any], ...]

    @staticmethod
    def open(url: str, *, partial: bool = False) -> Results:
        """Find out what an output folder holds.

        partial: whether an output that is not finished will do.

        Raises OutputError if it holds no job, IncompleteError if the job is not finished,
        OutputMismatchError if a file belongs to another job.
        """
        storage = Storage(url, "output")
        plan = load_plan(storage)
        if plan is None:
            raise OutputError(
                f"{storage.display()} is not the output of a job: it has no {PLAN_NAME}; give the "
                "folder that `shardrank rerank` wrote to"
            )
        done = committed(storage, plan)
        if not partial and not storage.exists(SUCCESS_NAME):
            missing = len(plan.units) - len(done.done)
            reason = f"{missing} of {len(plan.units)} units are missing"
            if not missing:
                reason = "all units are done, but the job was not accepted"
            raise IncompleteError(
                f"the output {storage.display()} is not finished: {reason}; run the job again, or "
                "take what is there with --partial"
            )
        numbers = tuple(sorted(done.data))
        return Results(storage, plan, numbers, tuple(read_footers_of(storage, plan, numbers)))

    def name(self, number: int) -> str:
        """The name of a unit's data file."""
        return output_name(self.plan.units[number])

    def read(
        self,
        number: int,
        row_columns: Sequence[str] | None = None,
        pair_fields: Sequence[str] | None = None,
    ) -> Ranked:
        """One unit's queries.

        row_columns: of Ranked.rows; pair_fields: of Ranked.pairs, by Ranked's names; None for all.

        Raises InputError if there is no such column, OutputError if the file cannot be read.
        """
        if self.plan.layout == "nested":
            return self._read_nested(number, row_columns, pair_fields)
        return self._read_pairs(number, row_columns, pair_fields)

    def scored_pairs(self, number: int, fields: Sequence[str]) -> pa.Table:
        """Some fields of a unit's pairs, in no particular order: those that have log-odds.

        fields: by Ranked's names, log_odds among them. Raises as `read` does.
        """
        if self.plan.layout == "nested":
            pairs = self._read_nested(number, [], fields).pairs
        else:
            wanted = [self.stored_name(name) for name in fields]
            pairs = self._standard(self._read_table(number, wanted, {}))
        return pairs.filter(pairs.column("log_odds").is_valid())

    def stored_name(self, field: str) -> str:
        """What a field of a pair is called in the files."""
        if field in (*PAIR_FIELDS, PAIR_HASH):
            return str(getattr(self.plan.output_columns, field))
        if field in ("doc_id", "text"):
            return str(getattr(self.plan.input_columns, field))
        return field

    def pair_names(self, number: int) -> list[str]:
        """The names of all that a file says of a pair."""
        schema = self.schema(number)
        if self.plan.layout == "pairs":
            return list(schema.names)
        structs = schema.field(self.plan.input_columns.candidates).type.value_type
        return [field.name for field in structs]

    def schema(self, number: int) -> pa.Schema:
        """The schema of a unit's data file."""
        with self.storage.open_input(self.name(number)) as source:
            return pq.read_schema(source)

    def _read_nested(
        self, number: int, row_columns: Sequence[str] | None, pair_fields: Sequence[str] | None
    ) -> Ranked:
        column = self.plan.input_columns.candidates
        table = self._read_table(number, row_columns, {column: self._stored(pair_fields)})
        candidates = Candidates.of(table, column)
        names = [field.name for field in candidates.structs.type]
        pairs = pa.table(dict(zip(names, candidates.fields(), strict=True)))
        offsets = np.concatenate([[0], np.cumsum(candidates.lengths)]).astype(np.int64)
        return Ranked(table.drop_columns([column]), self._standard(pairs), offsets)

    def _read_pairs(
        self, number: int, row_columns: Sequence[str] | None, pair_fields: Sequence[str] | None
    ) -> Ranked:
        query_id = self.plan.input_columns.query_id
        wanted = None
        if row_columns is not None and pair_fields is not None:
            stored = self._stored([*pair_fields, "rank"]) or ()
            wanted = list(dict.fromkeys([query_id, *row_columns, *stored]))
        table = self._read_table(number, wanted, {})
        ranks = table.column(self.stored_name("rank"))
        num_unranked = ranks.null_count
        table = table.filter(pc.is_valid(ranks))
        ids = table.column(query_id).combine_chunks()
        new = np.ones(len(ids), np.bool_)
        if len(ids) > 1:
            new[1:] = pc.not_equal(ids[1:], ids[:-1]).to_numpy(zero_copy_only=False)
        starts = np.flatnonzero(new)
        offsets = np.append(starts, len(ids)).astype(np.int64)
        rank = table.column(self.stored_name("rank")).to_numpy()
        order = pa.array(np.lexsort((rank, np.cumsum(new))))
        pairs = self._standard(table.take(order))
        rows = table.take(pa.array(starts))
        if row_columns is not None:
            rows = rows.select(list(dict.fromkeys(row_columns)))
        return Ranked(rows, pairs, offsets, num_unranked)

    def _stored(self, pair_fields: Sequence[str] | None) -> list[str] | None:
        return None if pair_fields is None else [self.stored_name(name) for name in pair_fields]

    def _standard(self, pairs: pa.Table) -> pa.Table:
        """Our fields, doc_id and text under the names that they have in this program."""
        names = (*PAIR_FIELDS, PAIR_HASH, "doc_id", "text")
        ours = {self.stored_name(name): name for name in names}
        return pairs.rename_columns([ours.get(name, name) for name in pairs.column_names])

    def _read_table(
        self,
        number: int,
        columns: Sequence[str] | None,
        inside: Mapping[str, Sequence[str] | None],
    ) -> pa.Table:
        """Some columns, and some fields of the structs in others (None for all)."""
        name = self.name(number)
        try:
            with (
                self.storage.open_input(name) as source,
                pq.ParquetFile(source, page_checksum_verification=True) as file,
            ):
                leaves = [
                    file.metadata.schema.column(i).path for i in range(file.metadata.num_columns)
                ]
                wanted = _wanted(leaves, file.schema_arrow, columns, inside)
                missing = [key for key, paths in wanted.items() if not paths]
                if missing:
                    raise InputError(
                        f"the output {self.storage.display()} has no column {missing[0]!r}; it has "
                        f"{', '.join(file.schema_arrow.names)}"
                    )
                return file.read(columns=[path for paths in wanted.values() for path in paths])
        except (pa.ArrowException, OSError) as error:
            raise OutputError(
                f"{self.storage.display(name)} cannot be read ({error}); find out with "
                "`shardrank verify` what was changed"
            ) from error


def _wanted(
    leaves: Sequence[str],
    schema: pa.Schema,
    columns: Sequence[str] | None,
    inside: Mapping[str, Sequence[str] | None],
) -> dict[str, list[str]]:
    """The leaf columns to read, by the name that asks for them."""
    names = [name for name in schema.names if name not in inside] if columns is None else columns
    wanted = {
        name: [leaf for leaf in leaves if leaf == name or leaf.startswith(f"{name}.")]
        for name in names
    }
    for name, fields in inside.items():
        below = [leaf for leaf in leaves if leaf.startswith(f"{name}.")]
        if fields is None:
            wanted[name] = below
            continue
        for field in fields:
            wanted[f"{name}.{field}"] = [
                leaf
                for leaf in below
                # candidates.list.element.doc_id, and what lies below a field that is a struct.
                if f"{leaf}.".split(".", 3)[-1].startswith(f"{field}.")
            ]
    return wanted
