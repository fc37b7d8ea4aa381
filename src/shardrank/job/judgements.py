"""Who says what is relevant: a file of qrels, or a column of the output itself."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import pyarrow as pa

from shardrank.errors import InputError
from shardrank.job.files import (
    DOC_ID,
    QUERY_ID,
    RELEVANCE,
    as_strings,
    find_column,
    is_parquet,
    read_lines,
    read_parquet,
)
from shardrank.measures.trec import Qrels, parse_qrels, whole
from shardrank.schema import is_list
from shardrank.store.results import Ranked, Results

_COLUMN = "column:"


@dataclass(frozen=True, slots=True)
class Judgements:
    """Relevance grades.

    qrels: from a file; empty where a column says it.
    field: a field of the candidates that holds each one's grade; None without one.
    column: a column of the rows that holds a list of the relevant documents' ids; None without one.
    """

    qrels: Qrels
    field: str | None = None
    column: str | None = None

    @staticmethod
    def read(source: str, results: Results) -> Judgements:
        """Qrels from a TREC, BEIR or Parquet file, or from `column:NAME` of the output.

        Raises InputError if there is no such file or column.
        """
        if not source.startswith(_COLUMN):
            return Judgements(read_qrels(source))
        name = source.removeprefix(_COLUMN)
        if not results.numbers:
            return Judgements({}, field=name)
        schema = results.schema(results.numbers[0])
        candidates = results.plan.input_columns.candidates
        fields = results.pair_names(results.numbers[0])
        if name in schema.names and is_list(schema.field(name).type) and name != candidates:
            return Judgements({}, column=name)
        if name in fields:
            return Judgements({}, field=name)
        raise InputError(
            f"the output has no relevance column {name!r}; a candidate has the fields "
            f"{', '.join(fields)}, a row {', '.join(schema.names)}"
        )

    @property
    def row_columns(self) -> list[str]:
        """What must be read of a row."""
        return [] if self.column is None else [self.column]

    @property
    def pair_fields(self) -> list[str]:
        """What must be read of a pair."""
        return [] if self.field is None else [self.field]

    def of_unit(self, ranked: Ranked, query_ids: Sequence[str | None]) -> list[dict[str, int]]:
        """The grades of each query of a unit, doc_id -> grade; {} where there are none."""
        if self.column is not None:
            lists = ranked.rows.column(self.column).to_pylist()
            return [{str(doc_id): 1 for doc_id in found or ()} for found in lists]
        if self.field is None:
            return [{} if name is None else self.qrels.get(name, {}) for name in query_ids]
        doc_ids = as_strings(ranked.pairs.column("doc_id"))
        grades = _grades(ranked.pairs.column(self.field).to_pylist(), self.field)
        return [
            {
                doc_id: grade
                for doc_id, grade in zip(doc_ids[start:stop], grades[start:stop], strict=True)
                if doc_id is not None and grade is not None
            }
            for start, stop in zip(ranked.offsets[:-1], ranked.offsets[1:], strict=True)
        ]


def read_qrels(source: str) -> Qrels:
    """Qrels of a file: Parquet by its name, else text of TREC or BEIR."""
    if not is_parquet(source):
        return parse_qrels(read_lines(source), source)
    table = read_parquet(source)
    columns = [
        table.column(find_column(table.column_names, names, what, source))
        for names, what in ((QUERY_ID, "query ids"), (DOC_ID, "document ids"))
    ]
    grades = table.column(find_column(table.column_names, RELEVANCE, "relevance", source))
    qrels: Qrels = {}
    ids = zip(*(as_strings(column) for column in columns), strict=True)
    for (query_id, doc_id), grade in zip(ids, _grades(grades.to_pylist(), source), strict=True):
        if query_id is not None and doc_id is not None and grade is not None:
            qrels.setdefault(query_id, {})[doc_id] = grade
    if not qrels:
        raise InputError(f"{source} holds no judgements")
    return qrels


def read_changed(source: str) -> dict[str, list[str]]:
    """The changed documents of FollowIR's queries.

    source: Parquet with a query and a document column (one id, or a list of them), or qrels.
    """
    if not is_parquet(source):
        return {query: list(docs) for query, docs in read_qrels(source).items()}
    table = read_parquet(source)
    names = table.column_names
    queries = as_strings(table.column(find_column(names, QUERY_ID, "query ids", source)))
    found = table.column(
        find_column(names, (*DOC_ID, "corpus-ids", "corpus_ids"), "document ids", source)
    )
    changed: dict[str, list[str]] = {}
    for query, value in zip(queries, found.to_pylist(), strict=True):
        ids = value if isinstance(value, list) else [value]
        if query is not None:
            changed.setdefault(query, []).extend(str(doc_id) for doc_id in ids)
    return changed


def _grades(values: Sequence[Any], place: str) -> list[int | None]:
    try:
        return [None if value is None else whole(value) for value in values]
    except (TypeError, ValueError) as error:
        raise InputError(
            f"the relevance in {place} is not a whole number ({error}); round it, or give qrels"
        ) from error


def query_ids_of(ranked: Ranked, results: Results) -> list[str | None]:
    """The query ids of a unit as text."""
    column: pa.ChunkedArray = ranked.rows.column(results.plan.input_columns.query_id)
    return as_strings(column)
