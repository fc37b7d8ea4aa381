"""From Arrow columns to pairs that can be scored, and the reasons for those that cannot.

Nothing here reads or writes: the same table gives the same pairs on every machine.

Codes of a row: null_query, empty_query, null_query_id (pairs layout), too_many_bytes,
invalid_utf8. Codes of a pair: null_candidate, null_text, too_many_bytes, invalid_utf8. An empty
document is scored, and an empty list of candidates is a row without pairs.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import pyarrow as pa

from shardrank.config import InputColumns
from shardrank.store.candidates import Candidates, single_array
from shardrank.store.queries import as_bytes, run_starts
from shardrank.store.texts import CheckedTexts, Problem, check_texts
from shardrank.types import BoolArray, Int64Array, Rejection


@dataclass(frozen=True, slots=True)
class CheckedPairs:
    """The pairs of R rows, in the order of the input: P pairs, Q queries, L ranked lists.

    queries, instructions: str [Q], None where unusable or (instructions) not given; instructions
        is None where the input has no such column. texts: str [P], None where unusable.
    query_index: int64 [P], the query of a pair. Q counts neighbours with the same query and
        instruction once, so that each is rendered once.
    row_of_pair: int64 [P], from 0 at the table's first row.
    position: int64 [P], the place in the list of candidates, from 0.
    list_index: int64 [P], the ranked list of a pair: its row (nested), its query (pairs).
    row_ok: bool [R], pair_ok: bool [P]. Where pair_ok, text and query are there.
    query_ids: large_binary [R], doc_ids: large_binary [P], for messages.
    rejections: sorted by row, then position; a rejected row takes all its pairs with it.
    """

    queries: list[str | None]
    instructions: list[str | None] | None
    texts: list[str | None]
    query_index: Int64Array
    row_of_pair: Int64Array
    position: Int64Array
    list_index: Int64Array
    row_ok: BoolArray
    pair_ok: BoolArray
    query_ids: pa.Array
    doc_ids: pa.Array
    rejections: tuple[Rejection, ...]


def check_nested(
    table: pa.Table, columns: InputColumns, max_bytes: int, first_row: int
) -> CheckedPairs:
    """Check rows of a query and its candidates. first_row: the table's first row in the shard."""
    num_rows = table.num_rows
    candidates = Candidates.of(table, columns.candidates)
    query, instruction, row_problems = _check_rows(table, columns, max_bytes)
    text = check_texts(candidates.field(columns.text), "text", max_bytes, "null_text")
    doc_ids = candidates.field(columns.doc_id)
    pair_problems = {
        **check_texts(doc_ids, "doc_id", max_bytes).problems,
        **text.problems,
        **dict.fromkeys(candidates.null_indices(), ("null_candidate", "the candidate is null")),
    }
    row_ok = _all_but(num_rows, row_problems)
    row_of_pair = np.repeat(np.arange(num_rows), candidates.lengths)
    starts = np.cumsum(candidates.lengths) - candidates.lengths
    position = np.arange(len(row_of_pair)) - starts[row_of_pair]
    query_ids, doc_ids = as_bytes(single_array(table.column(columns.query_id))), as_bytes(doc_ids)
    rejections = [
        Rejection(
            first_row + row, None, *problem, int(candidates.lengths[row]), id_text(query_ids, row)
        )
        for row, problem in row_problems.items()
    ]
    for pair, problem in pair_problems.items():
        row = int(row_of_pair[pair])
        if row_ok[row]:
            ids = id_text(query_ids, row), id_text(doc_ids, pair)
            rejections.append(Rejection(first_row + row, int(position[pair]), *problem, 1, *ids))
    return CheckedPairs(
        queries=query.values.to_pylist(),
        instructions=None if instruction is None else instruction.values.to_pylist(),
        texts=text.values.to_pylist(),
        query_index=row_of_pair,
        row_of_pair=row_of_pair,
        position=position,
        list_index=row_of_pair,
        row_ok=row_ok,
        pair_ok=_all_but(len(row_of_pair), pair_problems) & row_ok[row_of_pair],
        query_ids=query_ids,
        doc_ids=doc_ids,
        rejections=tuple(sorted(rejections, key=place)),
    )


def check_pairs(
    table: pa.Table, columns: InputColumns, max_bytes: int, first_row: int
) -> CheckedPairs:
    """Check rows of one query and one document each: row and pair are the same."""
    num_rows = table.num_rows
    query, instruction, row_problems = _check_rows(
        table, columns, max_bytes, null_query_id="null_query_id"
    )
    text = check_texts(single_array(table.column(columns.text)), "text", max_bytes, "null_text")
    doc_ids = single_array(table.column(columns.doc_id))
    doc_problems = check_texts(doc_ids, "doc_id", max_bytes).problems
    problems = {**doc_problems, **text.problems, **row_problems}
    query_ids, doc_ids = as_bytes(single_array(table.column(columns.query_id))), as_bytes(doc_ids)
    list_starts = run_starts(query_ids)
    query_starts = list_starts | run_starts(as_bytes(single_array(table.column(columns.query))))
    if instruction is not None:
        raw = as_bytes(single_array(table.column(columns.instruction)))
        query_starts |= run_starts(raw)
    rows = np.arange(num_rows)
    list_index = np.cumsum(list_starts) - 1
    firsts = pa.array(query_starts)
    ok = _all_but(num_rows, problems)
    rejections = []
    for row, problem in sorted(problems.items()):
        ids = id_text(query_ids, row), id_text(doc_ids, row)
        rejections.append(Rejection(first_row + row, None, *problem, 1, *ids))
    return CheckedPairs(
        queries=query.values.filter(firsts).to_pylist(),
        instructions=None if instruction is None else instruction.values.filter(firsts).to_pylist(),
        texts=text.values.to_pylist(),
        query_index=np.cumsum(query_starts) - 1,
        row_of_pair=rows,
        position=rows - np.flatnonzero(list_starts)[list_index],
        list_index=list_index,
        row_ok=ok,
        pair_ok=ok,
        query_ids=query_ids,
        doc_ids=doc_ids,
        rejections=tuple(rejections),
    )


def place(rejection: Rejection) -> tuple[int, int]:
    """Row, then position, a whole row first: the order in which rejections are kept."""
    return rejection.row, -1 if rejection.position is None else rejection.position


def id_text(ids: pa.Array, index: int) -> str | None:
    """One id for a message; bytes that are not UTF-8 are shown as U+FFFD."""
    value = ids[index].as_py()
    return None if value is None else value.decode("utf-8", "replace")


def _check_rows(
    table: pa.Table, columns: InputColumns, max_bytes: int, null_query_id: str | None = None
) -> tuple[CheckedTexts, CheckedTexts | None, dict[int, Problem]]:
    """Query, instruction (None where there is no such column), and what is wrong with rows."""
    query = check_texts(single_array(table.column(columns.query)), "query", max_bytes, "null_query")
    query_ids = single_array(table.column(columns.query_id))
    problems = check_texts(query_ids, "query_id", max_bytes, null_query_id).problems
    instruction = None
    if columns.instruction in table.column_names:
        raw = single_array(table.column(columns.instruction))
        instruction = check_texts(raw, "instruction", max_bytes)
        problems = {**problems, **instruction.problems}
    empty: dict[int, Problem] = {
        row: ("empty_query", "the query is empty or white space only")
        for row, text in enumerate(query.values.to_pylist())
        if text is not None and not text.strip()
    }
    return query, instruction, {**problems, **empty, **query.problems}


def _all_but(num: int, problems: dict[int, Problem]) -> BoolArray:
    good = np.ones(num, np.bool_)
    good[list(problems)] = False
    return good
