"""Labels as Parquet for sentence-transformers and PyLate. Raw log-odds, never normalised.

sentence-transformers takes every column but `label` or `labels` for an input, in their order, so
ids are written only on request.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import pyarrow as pa

from shardrank.errors import InputError
from shardrank.labels.chosen import Chosen
from shardrank.schema import PYLATE_SCHEMAS
from shardrank.store.results import Ranked
from shardrank.types import Int64Array

_FLOATS = pa.list_(pa.float32())
_STRINGS = pa.list_(pa.string())


def pointwise(ranked: Ranked, chosen: Chosen, queries: pa.Array, ids: pa.Array | None) -> pa.Table:
    """query, document, label: one row a pair, with its log-odds.

    queries: the text of each row of `ranked`. ids: likewise its query_id, to have query_id and
    doc_id in front; None for neither.
    """
    groups = _documents(chosen)
    pairs, owner = _flat(groups), _owner(chosen, groups)
    columns = {
        "query": queries.take(pa.array(owner)),
        "document": _take(ranked, "text", pairs),
        "label": _take(ranked, "log_odds", pairs),
    }
    if ids is not None:
        columns = {
            "query_id": ids.take(pa.array(owner)),
            "doc_id": _take(ranked, "doc_id", pairs),
            **columns,
        }
    return pa.table(columns)


def triples(ranked: Ranked, chosen: Chosen, queries: pa.Array, ids: pa.Array | None) -> pa.Table:
    """query, positive, negative, label: the margin, log-odds of the positive less the negative."""
    crossed = [
        (np.repeat(above, len(below)), np.tile(below, len(above)))
        for above, below in zip(chosen.positives, chosen.negatives, strict=True)
    ]
    groups = [below for _, below in crossed]
    positive, negative = _flat([above for above, _ in crossed]), _flat(groups)
    owner = _owner(chosen, groups)
    columns = {
        "query": queries.take(pa.array(owner)),
        "positive": _take(ranked, "text", positive),
        "negative": _take(ranked, "text", negative),
        "label": pa.array(_log_odds(ranked, positive) - _log_odds(ranked, negative), pa.float32()),
    }
    if ids is not None:
        columns = {
            "query_id": ids.take(pa.array(owner)),
            "positive_id": _take(ranked, "doc_id", positive),
            "negative_id": _take(ranked, "doc_id", negative),
            **columns,
        }
    return pa.table(columns)


def tuples(
    ranked: Ranked, chosen: Chosen, queries: pa.Array, ids: pa.Array | None, width: int
) -> pa.Table:
    """query, positive, negative_1 to negative_<width>, label: list of their margins.

    One row for each positive; every query of `chosen` has `width` negatives.
    """
    positive = _flat(chosen.positives)
    groups = [
        below
        for above, below in zip(chosen.positives, chosen.negatives, strict=True)
        for _ in above
    ]
    negative = np.array(groups, np.int64).reshape(len(positive), width)
    owner = _owner(chosen, chosen.positives)
    margins = _log_odds(ranked, positive)[:, None] - _log_odds(ranked, negative.ravel()).reshape(
        negative.shape
    )
    columns: dict[str, Any] = {
        "query": queries.take(pa.array(owner)),
        "positive": _take(ranked, "text", positive),
        **{f"negative_{i + 1}": _take(ranked, "text", negative[:, i].copy()) for i in range(width)},
        "label": _lists(pa.array(margins.ravel(), pa.float32()), groups, _FLOATS),
    }
    if ids is not None:
        columns = {
            "query_id": ids.take(pa.array(owner)),
            "positive_id": _take(ranked, "doc_id", positive),
            "negative_ids": _lists(_take(ranked, "doc_id", negative.ravel()), groups, _STRINGS),
            **columns,
        }
    return pa.table(columns)


def listwise(ranked: Ranked, chosen: Chosen, queries: pa.Array, ids: pa.Array | None) -> pa.Table:
    """query, docs, labels: one row a query, positives first, with the log-odds of each."""
    groups = _documents(chosen)
    pairs = _flat(groups)
    columns: dict[str, Any] = {
        "query": queries.take(pa.array(chosen.queries)),
        "docs": _lists(_take(ranked, "text", pairs), groups, _STRINGS),
        "labels": _lists(_take(ranked, "log_odds", pairs), groups, _FLOATS),
    }
    if ids is not None:
        columns = {
            "query_id": ids.take(pa.array(chosen.queries)),
            "doc_ids": _lists(_take(ranked, "doc_id", pairs), groups, _STRINGS),
            **columns,
        }
    return pa.table(columns)


def pylate(ranked: Ranked, chosen: Chosen, queries: pa.Array, ids: pa.Array) -> dict[str, pa.Table]:
    """PyLate's three tables, by name: train, queries, documents (each document once).

    One row of train for each positive, it first and then its query's negatives, all of one length.

    Raises InputError if a query or a document has no id, as PyLate finds their texts by them.
    """
    groups = [
        np.concatenate([[place], below])
        for above, below in zip(chosen.positives, chosen.negatives, strict=True)
        for place in above
    ]
    pairs = _flat(groups)
    owner = _owner(chosen, chosen.positives)
    doc_ids = _take(ranked, "doc_id", pairs)
    _refuse_null_ids("query", ids.take(pa.array(owner)), queries.take(pa.array(owner)))
    _refuse_null_ids("document", doc_ids, _take(ranked, "text", pairs))
    first = np.sort(np.unique(np.array(doc_ids.to_pylist(), object), return_index=True)[1])
    tables = {
        "train": {
            "query_id": ids.take(pa.array(owner)),
            "document_ids": _lists(doc_ids, groups, _STRINGS),
            "scores": _lists(_take(ranked, "log_odds", pairs), groups, _FLOATS),
        },
        "queries": {
            "query_id": ids.take(pa.array(chosen.queries)),
            "text": queries.take(pa.array(chosen.queries)),
        },
        "documents": {
            "document_id": doc_ids.take(pa.array(first)),
            "text": _take(ranked, "text", pairs[first]),
        },
    }
    return {name: pa.table(tables[name], PYLATE_SCHEMAS[name]) for name in tables}


def _refuse_null_ids(what: str, ids: pa.Array, texts: pa.Array) -> None:
    if ids.null_count:
        text = texts.filter(ids.is_null())[0].as_py()
        raise InputError(
            f"the {what} {text[:60]!r} has no id, and PyLate finds texts by their ids; give it one "
            "and rerank again, or take another format"
        )


def _documents(chosen: Chosen) -> list[Int64Array]:
    """All documents of each query, positives first."""
    return [np.concatenate(both) for both in zip(chosen.positives, chosen.negatives, strict=True)]


def _owner(chosen: Chosen, groups: Sequence[Int64Array]) -> Int64Array:
    """The row of the query of each document, int64 [sum of the groups' lengths]."""
    return np.repeat(chosen.queries, [len(group) for group in groups])


def _flat(groups: Sequence[Int64Array]) -> Int64Array:
    return np.concatenate([np.zeros(0, np.int64), *groups]).astype(np.int64)


def _take(ranked: Ranked, name: str, places: Int64Array) -> pa.Array:
    column = ranked.pairs.column(name)
    wanted = pa.float32() if name == "log_odds" else pa.string()
    return column.cast(wanted).take(pa.array(places)).combine_chunks()


def _log_odds(ranked: Ranked, places: Int64Array) -> np.ndarray:
    values: np.ndarray = ranked.pairs.column("log_odds").to_numpy()[places]
    return values


def _lists(values: pa.Array, groups: Sequence[Int64Array], data_type: pa.DataType) -> pa.Array:
    offsets = np.concatenate([[0], np.cumsum([len(group) for group in groups])]).astype(np.int32)
    return pa.ListArray.from_arrays(pa.array(offsets), values, type=data_type)
