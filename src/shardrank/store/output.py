"""From scores to the rows that go out: ranked, cut, and every pair accounted for.

Pure: arrays in, an Arrow table out. Ties keep the order of the input.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import pyarrow as pa

from shardrank.config import OutputColumns
from shardrank.schema import PAIR_HASH, ROW_FIELDS, pair_fields
from shardrank.store.cascade import Choice
from shardrank.store.pair_hash import HashArray, as_arrow
from shardrank.store.unit_table import UnitTable
from shardrank.store.validation import place
from shardrank.types import (
    BoolArray,
    Counts,
    Float32Array,
    Float64Array,
    Int32Array,
    Int64Array,
    Rejection,
)


@dataclass(frozen=True, slots=True)
class Output:
    """What a unit becomes. rejections: sorted by row, then position."""

    table: Any
    rejections: tuple[Rejection, ...]
    counts: Counts


@dataclass(frozen=True, slots=True)
class _Ranking:
    """Pairs, by their number, best first within each list, the lists in order.

    out: int64 [num_out]. rank: int32 [P], from 1; 0 where a pair is not ranked.
    score: float64 [P], NaN where a pair has none. cut: bool [P].
    """

    out: Int64Array
    rank: Int32Array
    score: Float64Array
    cut: BoolArray


def build_output(
    unit_table: UnitTable,
    log_odds: Float32Array,
    num_tokens: Int32Array,
    truncated: BoolArray,
    extra: Sequence[Rejection] = (),
    *,
    columns: OutputColumns,
    top_k: int | None,
    min_score: float | None,
    reused: BoolArray | None = None,
    pair_hashes: HashArray | None = None,
    choice: Choice | None = None,
) -> Output:
    """Rank the pairs of a unit and build its output rows.

    log_odds: float32 [P]; what is not finite becomes a rejection `not_finite`, unless the pair is
        rejected already. num_tokens: int32 [P]. truncated: bool [P].
    extra: rejections found after the reading; a rejected row takes its pairs with it.
    top_k: candidates kept of each list. min_score: the least score (not log-odds) that is kept.
    reused: bool [P], for counting. pair_hashes: uint8 [P, 16], written where given.
    choice: a cascade's: the others come behind, in their old order and without a score.

    Nested: rows in the order of the input, candidates best first, rejected and cut ones left out.
    Pairs: the rows that are left, in the order of the input; rank and position are null for a
    query whose rows are not contiguous, and nothing of it is cut.
    """
    rejections = _merge(unit_table, extra)
    row_ok, pair_ok = _accepted(unit_table, rejections)
    passed_over = np.zeros(len(log_odds), np.bool_) if choice is None else ~choice.is_chosen
    not_finite = [
        unit_table.reject_pair(pair, "not_finite", f"the model gave {log_odds[pair]} as log-odds")
        for pair in np.flatnonzero(pair_ok & ~passed_over & ~np.isfinite(log_odds)).tolist()
    ]
    if not_finite:
        rejections = sorted([*rejections, *not_finite], key=place)
        row_ok, pair_ok = _accepted(unit_table, rejections)
    ranking = _rank(unit_table, pair_ok, log_odds, top_k, min_score, choice)
    values: dict[str, Any] = {
        "log_odds": log_odds,
        "score": ranking.score,
        "rank": ranking.rank,
        "position": unit_table.position,
        "num_tokens": num_tokens,
        "truncated": truncated,
    }
    if pair_hashes is not None:
        values[PAIR_HASH] = pair_hashes
    if unit_table.layout == "nested":
        table = _nested(unit_table, ranking, row_ok, pair_ok, values, passed_over, columns)
        rows_cut = 0
    else:
        table = _pairs(unit_table, ranking, values, passed_over, columns)
        rows_cut = int(np.count_nonzero(ranking.cut))
    counts = Counts(
        rows_in=unit_table.num_rows,
        rows_out=table.num_rows,
        rows_rejected=int(np.count_nonzero(~row_ok)),
        rows_cut=rows_cut,
        pairs_in=unit_table.num_pairs,
        pairs_out=len(ranking.out),
        pairs_rejected=sum(rejection.num_pairs for rejection in rejections),
        pairs_cut=int(np.count_nonzero(ranking.cut)),
        pairs_truncated=int(np.count_nonzero(truncated & pair_ok)),
        pairs_reused=0 if reused is None else int(np.count_nonzero(reused & pair_ok)),
        pairs_passed_over=int(np.count_nonzero(passed_over & pair_ok)),
        tokens=int(np.sum(num_tokens, where=pair_ok)),
    )
    assert counts.balanced, f"unit {unit_table.unit.id} lost or doubled rows: {counts}"
    return Output(table, tuple(rejections), counts)


def sigmoid(log_odds: Float64Array) -> Float64Array:
    """1 / (1 + exp(-x)) in float64, without overflow at either end."""
    small = np.exp(-np.abs(log_odds))
    return np.where(log_odds >= 0, 1.0 / (1.0 + small), small / (1.0 + small))


def _merge(unit_table: UnitTable, extra: Sequence[Rejection]) -> list[Rejection]:
    """One rejection a place: the first one counts, and that of a row ends those of its pairs."""
    by_place: dict[tuple[int, int], Rejection] = {}
    for rejection in [*unit_table.rejections, *extra]:
        by_place.setdefault(place(rejection), rejection)
    whole_rows = {row for row, position in by_place if position < 0}
    first_row = unit_table.unit.row_start
    num_pairs = np.bincount(unit_table.row_of_pair, minlength=unit_table.num_rows)
    return [
        replace(rejection, num_pairs=int(num_pairs[row - first_row]) if position < 0 else 1)
        for (row, position), rejection in sorted(by_place.items())
        if position < 0 or row not in whole_rows
    ]


def _accepted(
    unit_table: UnitTable, rejections: Sequence[Rejection]
) -> tuple[BoolArray, BoolArray]:
    """Rows and pairs that are not rejected, bool [R] and bool [P]."""
    row_ok = np.ones(unit_table.num_rows, np.bool_)
    pair_ok = np.ones(unit_table.num_pairs, np.bool_)
    for rejection in rejections:
        row = rejection.row - unit_table.unit.row_start
        if rejection.position is None:
            row_ok[row] = False
        else:
            first = int(np.searchsorted(unit_table.row_of_pair, row))
            pair_ok[first + rejection.position] = False
    return row_ok, pair_ok & row_ok[unit_table.row_of_pair]


def _rank(
    unit_table: UnitTable,
    pair_ok: BoolArray,
    log_odds: Float32Array,
    top_k: int | None,
    min_score: float | None,
    choice: Choice | None,
) -> _Ranking:
    kept = np.flatnonzero(pair_ok)
    lists = unit_table.list_index
    keys: tuple[Any, ...] = (-log_odds[kept],)
    if choice is not None:
        chosen = choice.is_chosen[kept]
        keys = (np.where(chosen, -log_odds[kept], choice.old_order[kept]), ~chosen)
    order = kept[np.lexsort((unit_table.position[kept], *keys, lists[kept]))]
    starts = np.searchsorted(lists[order], lists[order], side="left")
    rank = np.zeros(len(pair_ok), np.int32)
    rank[order] = np.arange(len(order)) - starts + 1
    score = np.full(len(pair_ok), np.nan)
    score[kept] = sigmoid(log_odds[kept].astype(np.float64))
    cut = np.zeros(len(pair_ok), np.bool_)
    if top_k is not None:
        cut |= rank > top_k
    if min_score is not None:
        cut |= score < min_score
    cut &= pair_ok & ~unit_table.list_split[lists]
    return _Ranking(order[~cut[order]], rank, score, cut)


def _nested(
    unit_table: UnitTable,
    ranking: _Ranking,
    row_ok: BoolArray,
    pair_ok: BoolArray,
    values: dict[str, Any],
    passed_over: BoolArray,
    columns: OutputColumns,
) -> pa.Table:
    num_rows, rows = unit_table.num_rows, np.flatnonzero(row_ok)
    row_of_pair = unit_table.row_of_pair
    candidates = unit_table.candidates()
    taken = pa.array(ranking.out)
    arrays = [field.take(taken) for field in candidates.fields()]
    fields = list(candidates.structs.type)
    for key, data_type in pair_fields(PAIR_HASH in values).items():
        mask = passed_over[ranking.out] if key in _OF_A_SCORE else None
        arrays.append(_column(values[key][ranking.out], data_type, mask))
        fields.append(pa.field(getattr(columns, key), data_type))
    structs = pa.StructArray.from_arrays(arrays, fields=fields)
    lengths = np.bincount(row_of_pair[ranking.out], minlength=num_rows)[rows]
    offsets = pa.array(np.concatenate([[0], np.cumsum(lengths)]), pa.int32())
    list_type = pa.list_(pa.field("element", structs.type))
    lists = pa.ListArray.from_arrays(offsets, structs, type=list_type)
    # The column is replaced before rows are taken: the old one may be large, and is not needed.
    table = unit_table.table
    index = table.column_names.index(unit_table.columns.candidates)
    table = _take(table.remove_column(index), rows).add_column(
        index, pa.field(unit_table.columns.candidates, list_type), lists
    )
    numbers = {
        "num_cut": np.bincount(row_of_pair[ranking.cut], minlength=num_rows)[rows],
        "num_rejected": np.bincount(row_of_pair[~pair_ok], minlength=num_rows)[rows],
    }
    for key, data_type in ROW_FIELDS.items():
        table = table.append_column(getattr(columns, key), pa.array(numbers[key], data_type))
    return table


def _pairs(
    unit_table: UnitTable,
    ranking: _Ranking,
    values: dict[str, Any],
    passed_over: BoolArray,
    columns: OutputColumns,
) -> pa.Table:
    rows = np.sort(ranking.out)
    is_split = unit_table.list_split[unit_table.list_index[rows]]
    table = _take(unit_table.table, rows)
    for key, data_type in pair_fields(PAIR_HASH in values).items():
        mask = is_split if key in ("rank", "position") else None
        mask = passed_over[rows] if key in _OF_A_SCORE else mask
        column = _column(values[key][rows], data_type, mask)
        table = table.append_column(getattr(columns, key), column)
    return table


_OF_A_SCORE = ("log_odds", "score", "num_tokens", "truncated")
"""What is null where a cascade gave no score."""


def _column(values: Any, data_type: pa.DataType, mask: BoolArray | None) -> pa.Array:
    if values.ndim == 2:
        return as_arrow(values)
    return pa.array(values, data_type, mask=mask)


def _take(table: pa.Table, rows: Int64Array) -> pa.Table:
    """Some rows of a table; all of them without a copy."""
    return table if len(rows) == table.num_rows else table.take(pa.array(rows))
