"""What an evaluation found, as figures, JSON and a table for people."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

import numpy as np

from shardrank.measures.paired_test import paired_test
from shardrank.types import Counts


@dataclass(frozen=True, slots=True)
class QueryValues:
    """One query's measures, by name; before is empty where it is not known."""

    query_id: str
    group: str | None
    before: dict[str, float]
    after: dict[str, float]


@dataclass(slots=True)
class QueryCounts:
    """What was and what was not evaluated.

    without_qrels: in the output, not judged, and in no mean. without_results: judged, not in the
    output, and in no mean. empty: judged, in the output without a document: they count 0.
    """

    evaluated: int = 0
    without_qrels: int = 0
    without_results: int = 0
    empty: int = 0
    without_id: int = 0
    duplicate_documents: int = 0
    unranked_pairs: int = 0


@dataclass(frozen=True, slots=True)
class Evaluation:
    """An output against judgements.

    measures: over all evaluated queries; groups: by the values of the column `by`.
    before_known: False where the job cut candidates: the first stage's ranking is then not in the
        output.
    notes: what a reader of the figures must know.
    """

    output: str
    counts: QueryCounts
    before_known: bool
    notes: tuple[str, ...]
    queries: tuple[QueryValues, ...]
    p_mrr: dict[str, float] = field(default_factory=dict)

    @property
    def measures(self) -> dict[str, dict[str, Any]]:
        """Means and the paired test of each measure."""
        return _summary(self.queries)

    @property
    def groups(self) -> dict[str, dict[str, Any]]:
        """The same for each group, and its number of queries."""
        members: dict[str, list[QueryValues]] = defaultdict(list)
        for query in self.queries:
            if query.group is not None:
                members[query.group].append(query)
        return {
            name: {"queries": len(found), "measures": _summary(found)}
            for name, found in sorted(members.items())
        }

    def as_dict(self) -> dict[str, Any]:
        """Ready for JSON."""
        found: dict[str, Any] = {
            "output": self.output,
            "queries": asdict(self.counts),
            "measures": self.measures,
            "groups": self.groups,
            "notes": list(self.notes),
            "per_query": [asdict(query) for query in self.queries],
        }
        if self.p_mrr:
            mean = float(np.mean(list(self.p_mrr.values())))
            found["p_mrr"] = {"mean": mean, "per_query": self.p_mrr}
        return found


def _summary(queries: Sequence[QueryValues]) -> dict[str, dict[str, Any]]:
    found: dict[str, dict[str, Any]] = {}
    for name in queries[0].after if queries else ():
        after = [query.after[name] for query in queries]
        known = all(query.before for query in queries)
        test = paired_test([query.before[name] for query in queries] if known else after, after)
        found[name] = {"before": None, "after": test.after}
        if known:
            found[name] = {**asdict(test), "difference": test.difference}
    return found


def notes_on(
    counts: QueryCounts, totals: Counts, *, judged_by_field: bool, before_known: bool
) -> list[str]:
    """What a reader of the figures must know."""
    said = []
    if not before_known:
        said.append(
            f"the job cut {totals.pairs_cut:,} pairs, so the first stage's ranking is not in the "
            "output: 'before' is not known; give it with --before RUN"
        )
    if totals.pairs_cut and judged_by_field:
        said.append("cut documents are not judged by a column: recall and nDCG come out too high")
    if totals.pairs_rejected:
        said.append(f"{totals.pairs_rejected:,} rejected pairs are in neither ranking")
    for number, text in (
        (counts.without_qrels, "queries of the output have no judgements and are left out"),
        (counts.without_results, "judged queries are not in the output and are left out"),
        (counts.empty, "judged queries have no documents left and count 0"),
        (counts.without_id, "rows have no query_id and are left out"),
        (counts.duplicate_documents, "documents stand in a ranking again and are left out there"),
        (counts.unranked_pairs, "pairs of queries whose rows are not contiguous are left out"),
    ):
        if number:
            said.append(f"{number:,} {text}")
    return said


def render_evaluation(found: Evaluation) -> str:
    """A table for people."""
    lines = [
        f"{found.output}: {found.counts.evaluated:,} queries",
        *_table("", found.measures),
    ]
    for name, group in found.groups.items():
        lines += ["", f"{name} ({group['queries']:,} queries)", *_table("  ", group["measures"])]
    if found.p_mrr:
        mean = float(np.mean(list(found.p_mrr.values())))
        lines += ["", f"p-MRR {mean:+.4f} over {len(found.p_mrr):,} queries"]
    return "\n".join([*lines, *(f"note: {note}" for note in found.notes)])


def _table(indent: str, measures: Mapping[str, Mapping[str, Any]]) -> list[str]:
    rows = [f"{indent}{'measure':12}  before   after   change   p-value  better worse same"]
    for name, values in measures.items():
        if values["before"] is None:
            rows.append(f"{indent}{name:12}       -  {values['after']:.4f}")
            continue
        p_value = "-" if values["p_value"] is None else f"{values['p_value']:.2g}"
        rows.append(
            f"{indent}{name:12}  {values['before']:.4f}  {values['after']:.4f}  "
            f"{values['difference']:+.4f}  {p_value:>7}  {values['wins']:6,} "
            f"{values['losses']:5,} {values['ties']:4,}"
        )
    return rows
