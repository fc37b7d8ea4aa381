"""From the chosen documents of a unit to the files that a trainer reads."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from shardrank.labels import json_lines, tables
from shardrank.labels.chosen import LabelCounts, choose
from shardrank.labels.rules import Format, LabelRules, default_negatives
from shardrank.store.results import Ranked

_FIXED_WIDTH = ("pylate",)


@dataclass(frozen=True, slots=True)
class LabelFormat:
    """What is written.

    name: of the trainer's format. tuples: margin-mse with all negatives of a query in one row.
    ids: whether the Parquet formats of sentence-transformers get the ids as columns in front.
    """

    name: Format
    tuples: bool = False
    ids: bool = False

    def as_dict(self) -> dict[str, Any]:
        """Ready for JSON."""
        return asdict(self)

    def complete(self, rules: LabelRules) -> LabelRules:
        """The rules with the format's own number of negatives where none is given."""
        if rules.num_negatives is not None:
            return rules
        return replace(rules, num_negatives=default_negatives(self.name))

    def min_negatives(self, rules: LabelRules) -> int:
        """How many a query must have."""
        if self.name == "pointwise":
            return 0
        is_fixed = self.name in _FIXED_WIDTH or (self.name == "margin-mse" and self.tuples)
        return (rules.num_negatives or 1) if is_fixed else 1


@dataclass(frozen=True, slots=True)
class Labels:
    """A unit's labels: file contents by `folder/suffix`, none where there are no rows."""

    files: Mapping[str, bytes]
    counts: LabelCounts


def make_labels(
    ranked: Ranked,
    queries: Sequence[str],
    query_ids: Sequence[str | None],
    prompts: Sequence[str],
    grades: Sequence[Mapping[str, int]] | None,
    rules: LabelRules,
    form: LabelFormat,
) -> Labels:
    """The labels of one unit.

    queries, query_ids, prompts: text, id and instruction of each row of `ranked`.
    grades: as choose() takes them. rules: complete for the format.
    """
    keys = [
        name if name is not None else text for name, text in zip(query_ids, queries, strict=True)
    ]
    chosen = choose(ranked, keys, grades, rules, min_negatives=form.min_negatives(rules))
    if not len(chosen.queries):
        return Labels({}, chosen.counts)
    texts = pa.array(queries, pa.string())
    names = pa.array(query_ids, pa.string())
    ids = names if form.ids else None
    if form.name == "flagembedding":
        content = json_lines.flagembedding(ranked, chosen, queries, prompts)
        return Labels({".jsonl": content}, replace(chosen.counts, rows=len(chosen.queries)))
    if form.name == "tevatron":
        content = json_lines.tevatron(ranked, chosen, queries, query_ids)
        return Labels({".jsonl": content}, replace(chosen.counts, rows=len(chosen.queries)))
    if form.name == "pylate":
        three = tables.pylate(ranked, chosen, texts, names)
        files = {f"{name}/.parquet": _encode(table) for name, table in three.items()}
        return Labels(files, replace(chosen.counts, rows=three["train"].num_rows))
    if form.name == "margin-mse" and form.tuples:
        width = form.min_negatives(rules)
        table = tables.tuples(ranked, chosen, texts, ids, width)
    else:
        make = {
            "pointwise": tables.pointwise,
            "margin-mse": tables.triples,
            "listwise": tables.listwise,
        }[form.name]
        table = make(ranked, chosen, texts, ids)
    return Labels({".parquet": _encode(table)}, replace(chosen.counts, rows=table.num_rows))


def _encode(table: pa.Table) -> bytes:
    """Parquet whose bytes depend on the table alone, so that a repeated attempt writes the same."""
    sink = pa.BufferOutputStream()
    pq.write_table(table, sink, compression="zstd")
    data: bytes = sink.getvalue().to_pybytes()
    return data
