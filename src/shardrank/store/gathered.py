"""Candidates from a run, queries and documents: arrays and tables in, rows of shards out. Pure."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from shardrank.types import Int64Array

MISSING_SCHEMA = pa.schema(
    [("query_id", pa.string()), ("doc_id", pa.string()), ("reason", pa.string())]
)
"""What of a run could not be gathered: reason is no_query or no_document."""
MISSING_FOLDER = "_shardrank/missing"
_FIRST_STAGE = "first_stage_score"


@dataclass(frozen=True, slots=True)
class Run:
    """A run's candidates, all in memory: about 100 bytes each.

    table: query_id, doc_id (large_string), score (float64), place (int64): from 0 in the query's
        order: by score, then as the run has it. Sorted by query and place.
    num_cut: candidates beyond top_k. num_repeated: a document that a query had already.
    """

    table: pa.Table
    num_cut: int
    num_repeated: int


def order_run(table: pa.Table, top_k: int | None) -> Run:
    """Order a run: best score first, ties as they stand; each document once; at most top_k.

    table: query_id, doc_id, score.
    """
    queries = table.column("query_id").combine_chunks().dictionary_encode()
    codes = queries.indices.to_numpy(zero_copy_only=False)
    documents = table.column("doc_id").combine_chunks().dictionary_encode().indices
    scores = table.column("score").to_numpy()
    order = np.lexsort((np.arange(len(codes)), -scores, codes))
    # The first of a query's equal documents, in this order, is its best.
    keys = codes[order].astype(np.int64) * (int(pc.max(documents).as_py() or 0) + 1)
    keys += documents.to_numpy(zero_copy_only=False)[order]
    first = np.zeros(len(order), np.bool_)
    first[np.unique(keys, return_index=True)[1]] = True
    num_repeated = int(np.count_nonzero(~first))
    order = order[first]
    place = _places(codes[order])
    kept = slice(None) if top_k is None else place < top_k
    num_kept = len(order[kept])
    return Run(
        table.take(pa.array(order[kept])).append_column("place", pa.array(place[kept])),
        len(order) - num_kept,
        num_repeated,
    )


def _places(codes: np.ndarray) -> Int64Array:
    """The place of each row among those of its code, where equal codes stand together."""
    starts = np.searchsorted(codes, codes, side="left")
    return (np.arange(len(codes)) - starts).astype(np.int64)


def documents(
    doc_ids: Any, texts: Any, titles: Any, *, wanted: pa.Array | None, keep_title: bool
) -> pa.Table:
    """Documents of a corpus as doc_id, text and, where it is kept, title; all large_string.

    doc_ids, texts, titles: columns; titles None where there are none. wanted: the ids to keep; None
    for all. A title that is not kept stands in front of its text, after BEIR's custom.
    """
    columns = {"doc_id": doc_ids, "text": pc.fill_null(texts, "")}
    if titles is not None:
        titles = pc.fill_null(titles, "")
        if keep_title:
            columns["title"] = titles
        else:
            space = pa.scalar(" ", titles.type)
            joined = pc.binary_join_element_wise(titles, columns["text"], space)
            columns["text"] = pc.if_else(pc.equal(titles, ""), columns["text"], joined)
    table = pa.table(columns)
    keep = pc.is_valid(doc_ids) if wanted is None else pc.is_in(doc_ids, value_set=wanted)
    return table.filter(keep)


def build_rows(
    candidates: pa.Table, queries: pa.Table, layout: str = "nested"
) -> tuple[pa.Table, pa.Table]:
    """One shard's rows, sorted by query_id, and what is missing (MISSING_SCHEMA).

    candidates: query_id, doc_id, score, place, text and perhaps title, in any order; text is null
        where the corpus has no such document. A document that the corpus has twice counts once.
    queries: query_id, query and whatever else goes with a row.
    """
    candidates = _once(candidates)
    where = pc.index_in(candidates.column("query_id"), value_set=queries.column("query_id"))
    no_query, no_text = pc.is_null(where), pc.is_null(candidates.column("text"))
    missing = pa.concat_tables(
        [
            _missing(candidates.filter(no_query), "no_query"),
            _missing(candidates.filter(pc.and_(pc.invert(no_query), no_text)), "no_document"),
        ]
    )
    found = pc.and_(pc.invert(no_query), pc.invert(no_text))
    candidates, where = candidates.filter(found), where.filter(found)
    if layout == "pairs":
        rows = queries.take(where)
        for name, column in _fields(candidates).items():
            rows = rows.append_column(name, column)
        return rows, missing
    codes = where.to_numpy(zero_copy_only=False)
    starts = np.flatnonzero(np.diff(codes, prepend=-1))
    offsets = pa.array(np.append(starts, len(codes)).astype(np.int32))
    fields = _fields(candidates)
    structs = pa.StructArray.from_arrays(list(fields.values()), names=list(fields))
    rows = queries.take(pa.array(codes[starts]))
    return rows.append_column("candidates", pa.ListArray.from_arrays(offsets, structs)), missing


def to_pairs(table: pa.Table, candidates: str) -> pa.Table:
    """Nested rows as one row a candidate; a row without candidates leaves none."""
    column = table.column(candidates).combine_chunks()
    rows = table.drop_columns([candidates]).take(pc.list_parent_indices(column))
    structs = column.flatten()
    for field, values in zip(structs.type, structs.flatten(), strict=True):
        rows = rows.append_column(field, values)
    return rows


def to_nested(
    table: pa.Table, query_id: str, row_columns: Sequence[str], candidates: str
) -> pa.Table:
    """Rows of pairs, those of a query standing together, as one row a query.

    row_columns: those that belong to the query, taken from its first pair; all others go into the
    candidates.
    """
    ids = table.column(query_id).combine_chunks()
    new = np.ones(len(ids), np.bool_)
    if len(ids) > 1:
        new[1:] = pc.not_equal(ids[1:], ids[:-1]).to_numpy(zero_copy_only=False)
    starts = np.flatnonzero(new)
    inside = [name for name in table.column_names if name not in row_columns]
    structs = pa.StructArray.from_arrays(
        [table.column(name).combine_chunks() for name in inside],
        fields=[table.schema.field(name) for name in inside],
    )
    lists = pa.ListArray.from_arrays(
        pa.array(np.append(starts, len(ids)).astype(np.int32)), structs
    )
    return table.select(list(row_columns)).take(pa.array(starts)).append_column(candidates, lists)


def _once(candidates: pa.Table) -> pa.Table:
    """Sorted by query and place, each place once: of two texts the first in their own order."""
    keys = [(name, "ascending") for name in ("query_id", "place", "text")]
    candidates = candidates.sort_by(keys)
    if candidates.num_rows < 2:
        return candidates
    same = np.zeros(candidates.num_rows, np.bool_)
    same[1:] = True
    for name in ("query_id", "place"):
        column = candidates.column(name).combine_chunks()
        same[1:] &= pc.equal(column[1:], column[:-1]).to_numpy(zero_copy_only=False)
    return candidates.filter(pa.array(~same))


def _missing(candidates: pa.Table, reason: str) -> pa.Table:
    ids = candidates.select(["query_id", "doc_id"])
    reasons = pa.array([reason] * len(ids), pa.string())
    return ids.append_column("reason", reasons).cast(MISSING_SCHEMA)


def _fields(candidates: pa.Table) -> dict[str, Any]:
    columns = {"doc_id": candidates.column("doc_id"), "text": candidates.column("text")}
    if "title" in candidates.column_names:
        columns["title"] = candidates.column("title")
    columns[_FIRST_STAGE] = candidates.column("score").cast(pa.float64())
    return {name: column.combine_chunks() for name, column in columns.items()}
