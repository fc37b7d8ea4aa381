"""One unit's proof: its input rows, its output rows and its rejected rows, laid side by side.

This shares no code with what wrote the rows, so that the two cannot be wrong in the same way.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa

from shardrank.store.plan import MIN_SCORE, TOP_K, Plan
from shardrank.store.verify_cascade import expected_of
from shardrank.store.verify_hash import check_hashes
from shardrank.store.verify_input import flat, raw_values
from shardrank.store.verify_scores import check_cuts, check_scores
from shardrank.store.verify_values import bare, numbered, same
from shardrank.types import Counts, Unit

Report = Callable[[str], None]


@dataclass(frozen=True, slots=True)
class UnitFiles:
    """What lies side by side. rejected: rows of the rejected file, as dictionaries."""

    unit: Unit
    before: pa.Table
    after: pa.Table
    rejected: Sequence[dict[str, Any]]
    split_ids: frozenset[Any]


def check_unit(plan: Plan, files: UnitFiles, report: Report) -> Counts:
    """Compare; `report` is called with each thing that is wrong. Returns what was counted."""
    check = _check_nested if plan.layout == "nested" else _check_pairs
    return check(plan, files, report)


def _check_nested(plan: Plan, files: UnitFiles, report: Report) -> Counts:
    before, after, columns = files.before, files.after, plan.input_columns
    ours = plan.output_columns
    sizes, items = flat(before.column(columns.candidates))
    starts = np.cumsum(sizes) - sizes
    rejected_rows, rejected_pairs = _places(files, sizes, report)
    kept = np.array([row for row in range(len(before)) if row not in rejected_rows], np.int64)
    counts = Counts(
        rows_in=len(before),
        rows_out=len(after),
        rows_rejected=len(rejected_rows),
        pairs_in=int(sizes.sum()),
        pairs_rejected=int(sizes[sorted(rejected_rows)].sum()) + len(rejected_pairs),
    )
    _check_reasons(files, columns, starts, items, report)
    if len(kept) != len(after):
        report(f"{len(kept)} rows should be there, {len(after)} are")
        return counts
    _check_columns(before, after, [ours.num_cut, ours.num_rejected], report)
    _check_columns_same(before, after, kept, columns.candidates, report)
    out_sizes, out_items = flat(after.column(columns.candidates))
    out_fields = _fields(out_items)
    place = out_fields[ours.position].to_numpy(zero_copy_only=False)
    row = np.repeat(kept, out_sizes)
    if np.any((place < 0) | (place >= sizes[row])):
        report(f"a {ours.position} lies outside its list")
        return counts
    pairs = starts[row] + place
    rejected = np.array([starts[r] + p for r, p in rejected_pairs], np.int64)
    if len(np.unique(np.concatenate([pairs, rejected]))) != len(pairs) + len(rejected):
        report("a candidate is there twice, or both scored and rejected")
    num_rejected = np.zeros(len(before), np.int64)
    np.add.at(num_rejected, [r for r, _ in rejected_pairs], 1)
    cut = after.column(ours.num_cut).to_numpy()
    if not np.array_equal(after.column(ours.num_rejected).to_numpy(), num_rejected[kept]):
        report(f"{ours.num_rejected} is not the number of candidates in the rejected file")
    if not np.array_equal(out_sizes + num_rejected[kept] + cut, sizes[kept]):
        report("candidates out, rejected and cut are not those that went in")
    after_fields = _numbered_fields(out_items)
    for key, values in _numbered_fields(items).items():
        if key in after_fields:
            _check_same(values, pairs, after_fields[key], key[0], report)
        else:
            report(f"field {key[0]!r} of the candidates is missing")
    ends = np.repeat(np.arange(len(kept)), out_sizes)
    expected = expected_of(plan, _fields(items), pairs)
    check_scores(plan, out_fields, ends, place, expected, report)
    check_hashes(plan, after, out_fields, ends, report)
    ranks = out_fields[ours.rank].to_numpy(zero_copy_only=False)
    if not np.array_equal(
        ranks, np.arange(len(ends)) - (np.cumsum(out_sizes) - out_sizes)[ends] + 1
    ):
        report(f"{ours.rank} does not count from 1 in the order of the list")
    check_cuts(plan, out_sizes, cut, report)
    _check_usable(before.column(columns.query).is_null().to_numpy()[kept], "query", report)
    is_null = out_fields[columns.text].is_null().to_numpy(zero_copy_only=False)
    _check_usable(is_null, "text", report)
    return Counts(**{**counts.as_dict(), "pairs_out": len(pairs), "pairs_cut": int(cut.sum())})


def _check_pairs(plan: Plan, files: UnitFiles, report: Report) -> Counts:
    before, after, columns, ours = (
        files.before,
        files.after,
        plan.input_columns,
        plan.output_columns,
    )
    ids = [value for c in before.column(columns.query_id).chunks for value in raw_values(c)]
    first = np.array([i for i, v in enumerate(ids) if i == 0 or v != ids[i - 1]], np.int64)
    run = np.searchsorted(first, np.arange(len(ids)), side="right") - 1
    rejected_rows, _ = _places(files, np.ones(len(before), np.int64), report)
    kept = np.array([row for row in range(len(before)) if row not in rejected_rows], np.int64)
    place = after.column(ours.position).to_pylist()
    if _cuts(plan):
        start_of = {ids[row]: int(row) for row in first}
        out_ids = [v for c in after.column(columns.query_id).chunks for v in raw_values(c)]
        rows = np.array(
            [
                start_of.get(v, -1) + (-1 if p is None else p)
                for v, p in zip(out_ids, place, strict=True)
            ],
            np.int64,
        )
    else:
        rows = kept
    counts = Counts(
        rows_in=len(before),
        rows_out=len(after),
        rows_rejected=len(rejected_rows),
        rows_cut=len(kept) - len(after),
        pairs_in=len(before),
        pairs_out=len(after),
        pairs_rejected=len(rejected_rows),
        pairs_cut=len(kept) - len(after),
    )
    _check_reasons(files, columns, np.arange(len(before)), None, report)
    if len(rows) != len(after) or np.any(np.diff(rows) <= 0) or not set(rows) <= set(kept):
        report(f"{len(after)} rows are there, and they are not the {len(kept)} that were accepted")
        return counts
    has_hash = [ours.pair_hash] if plan.output_fields.get("output.pair_hash") else []
    ours_here = [getattr(ours, name) for name in _PAIR_KEYS]
    _check_columns(before, after, [*ours_here, *has_hash], report)
    _check_columns_same(before, after, rows, None, report)
    split = np.array([ids[row] in files.split_ids for row in rows], np.bool_)
    wanted = [None if s else int(r - first[run[r]]) for s, r in zip(split, rows, strict=True)]
    if place != wanted:
        report(f"{ours.position} is not the place among the query's rows")
    ranks = after.column(ours.rank).to_pylist()
    if any((rank is None) != bool(s) for rank, s in zip(ranks, split, strict=True)):
        report(f"{ours.rank} is not null exactly where a query's rows are not contiguous")
        return counts
    fields = {name: after.column(name).combine_chunks() for name in (*ours_here, *has_hash)}
    hashed = {**fields, columns.text: after.column(columns.text)}
    check_hashes(plan, after, hashed, np.arange(len(after)), report)
    named = dict(zip(reversed(before.column_names), reversed(before.columns), strict=True))
    expected = expected_of(plan, named, rows)
    ranked = np.flatnonzero(~split)
    keys = np.array([ranks[i] for i in ranked], np.int64)
    order = ranked[np.lexsort((keys, run[rows[ranked]]))]
    runs = run[rows[order]]
    where = np.searchsorted(runs, runs, side="left")
    if not np.array_equal([ranks[i] for i in order], np.arange(len(order)) - where + 1):
        report(f"{ours.rank} does not count from 1 within each query")
    best_first = {name: values.take(pa.array(order)) for name, values in fields.items()}
    ordered = None if expected is None else expected.take(order)
    check_scores(plan, best_first, runs, rows[order], ordered, report)
    apart = np.flatnonzero(split)
    rest = {name: values.take(pa.array(apart)) for name, values in fields.items()}
    alone = None if expected is None else expected.take(apart)
    check_scores(plan, rest, np.arange(len(apart)), apart, alone, report)
    num_runs = len(first)
    out_sizes = np.bincount(run[rows], minlength=num_runs)
    check_cuts(plan, out_sizes, np.bincount(run[kept], minlength=num_runs) - out_sizes, report)
    for name in ("query", "text"):
        is_null = after.column(getattr(columns, name)).is_null().to_numpy()
        _check_usable(is_null, name, report)
    return counts


_PAIR_KEYS = ("log_odds", "score", "rank", "position", "num_tokens", "truncated")


def _places(files: UnitFiles, sizes: Any, report: Report) -> tuple[set[int], set[tuple[int, int]]]:
    """Rejected rows, and rejected (row, position), from 0 in the unit."""
    rows: set[int] = set()
    pairs: set[tuple[int, int]] = set()
    for entry in files.rejected:
        row, position = entry["row"] - files.unit.row_start, entry["position"]
        inside = 0 <= row < len(sizes) and (position is None or 0 <= position < sizes[row])
        if not inside or entry["shard"] != files.unit.shard.path or entry["unit"] != files.unit.id:
            report(f"the rejected row {entry['row']}, position {position}, is not of this unit")
            continue
        num_pairs = 1 if position is not None else sizes[row]
        if entry["num_pairs"] != num_pairs or row in rows or (row, position) in pairs:
            report(f"the rejected row {entry['row']}, position {position}, is counted wrongly")
        if position is None:
            rows.add(row)
        else:
            pairs.add((row, position))
    if any(row in rows for row, _ in pairs):
        report("a candidate of a rejected row is rejected once more")
    return rows, {(row, position) for row, position in pairs if row not in rows}


def _check_reasons(files: UnitFiles, columns: Any, starts: Any, items: Any, report: Report) -> None:
    """What is said to be null must be null in the input; items: None in the pairs layout."""
    for entry in files.rejected:
        row, position, code = entry["row"] - files.unit.row_start, entry["position"], entry["code"]
        if not 0 <= row < len(files.before):
            continue
        values, index = None, int(starts[row]) + (position or 0)
        if code == "null_query":
            values, index = files.before.column(columns.query), row
        elif code == "null_text":
            values = files.before.column(columns.text) if items is None else None
            values = _fields(items)[columns.text] if values is None else values
        elif code == "null_candidate":
            values = items
        if values is not None and (index >= len(values) or values[index].is_valid):
            report(f"row {entry['row']}, position {position} is rejected as {code}, but is not")


def _check_columns(before: pa.Table, after: pa.Table, ours: list[str], report: Report) -> None:
    expected = sorted([*before.column_names, *ours])
    if sorted(after.column_names) != expected:
        report(f"its columns are {after.column_names}, not {expected}")


def _check_columns_same(
    before: pa.Table, after: pa.Table, rows: Any, omitted: str | None, report: Report
) -> None:
    """Columns that pass through, by name; of columns of one name, the first is the first."""
    found = dict(zip(numbered(after.column_names), after.columns, strict=True))
    for key, column in zip(numbered(before.column_names), before.columns, strict=True):
        if key[0] != omitted and key in found:
            _check_same(column, rows, found[key], key[0], report)


def _check_same(before: Any, places: Any, after: Any, name: str, report: Report) -> None:
    if not same(bare(before).take(pa.array(places)), bare(after)):
        report(f"{name!r} is not what went in")


def _check_usable(is_null: Any, name: str, report: Report) -> None:
    if np.any(is_null):
        report(f"a {name} that is null was scored")


def _cuts(plan: Plan) -> bool:
    return any(plan.output_fields.get(name) is not None for name in (TOP_K, MIN_SCORE))


def _fields(structs: Any) -> dict[str, Any]:
    """The fields of an array of structs by name; of fields of one name the first."""
    return {name: values for (name, n), values in _numbered_fields(structs).items() if n == 0}


def _numbered_fields(structs: Any) -> dict[tuple[str, int], Any]:
    """The same, fields of one name told apart; none where all candidates are of type null."""
    if pa.types.is_null(structs.type):
        return {}
    names = numbered([field.name for field in structs.type])
    return dict(zip(names, structs.flatten(), strict=True))
