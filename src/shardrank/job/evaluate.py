"""`shardrank evaluate`: measures of an output before and after reranking, from judgements."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from shardrank.errors import InputError
from shardrank.job.evaluation import Evaluation, QueryCounts, QueryValues, notes_on
from shardrank.job.files import as_strings, read_lines, write_new
from shardrank.job.judgements import Judgements, query_ids_of, read_changed
from shardrank.measures.p_mrr import p_mrr
from shardrank.measures.retrieval import DEFAULT_MEASURES, evaluate_rankings, parse_measures
from shardrank.measures.trec import Qrels, parse_run, run_lines
from shardrank.store.results import Ranked, Results
from shardrank.types import Counts


def evaluate(
    output: str,
    qrels: str,
    *,
    measures: str = DEFAULT_MEASURES,
    by: str | None = None,
    before: str | None = None,
    trec_run: str | None = None,
    changed: str | None = None,
    partial: bool = False,
) -> Evaluation:
    """Measure an output folder.

    qrels: a TREC, BEIR or Parquet file, or `column:NAME`. measures: names of ir_measures.
    by: a column of the rows to group by. before: a TREC run to compare with instead of the input's
    order. trec_run: a file for the ranking. changed: FollowIR's changed documents, for p-MRR.
    partial: whether an unfinished output will do.

    Raises ConfigError for an unknown measure, InputError for qrels that cannot be read or that
    share no query with the output, and what Results.open raises.
    """
    wanted = parse_measures(measures)
    results = Results.open(output, partial=partial)
    judgements = Judgements.read(qrels, results)
    moved = None if changed is None else read_changed(changed)
    first_stage = None if before is None else _read_run(before)
    totals = Counts.total(Counts(**footer["counts"]) for footer in results.footers)
    before_known = first_stage is not None or totals.pairs_cut == 0
    reader = _Reader(results, judgements, by)
    queries: list[QueryValues] = []
    run: list[bytes] = []
    rankings: dict[str, list[str]] = {}
    for number in results.numbers:
        unit = reader.read(number)
        old = unit.first_stage if first_stage is None else first_stage
        values = {
            "after": evaluate_rankings(wanted, unit.qrels, unit.reranked),
            "before": evaluate_rankings(
                wanted, unit.qrels, {name: old.get(name, []) for name in unit.qrels}
            )
            if before_known
            else {},
        }
        queries += [
            QueryValues(name, unit.groups[name], values["before"].get(name, {}), after)
            for name, after in values["after"].items()
        ]
        if trec_run is not None:
            run.append(unit.run())
        if moved is not None:
            rankings |= unit.reranked
    counts = reader.counts
    counts.evaluated = len(queries)
    counts.without_results = len(judgements.qrels.keys() - reader.seen.keys())
    if not queries:
        raise InputError(_no_query_in_common(qrels, judgements.qrels, list(reader.seen)))
    if trec_run is not None:
        write_new(trec_run, b"".join(run))
    return Evaluation(
        output=results.storage.display(),
        counts=counts,
        before_known=before_known,
        notes=tuple(
            notes_on(
                counts,
                totals,
                judged_by_field=judgements.field is not None,
                before_known=before_known,
            )
        ),
        queries=tuple(queries),
        p_mrr={} if moved is None else p_mrr(rankings, moved),
    )


_NO_ID = "\0"
"""How the stand-in of a missing document id begins."""


@dataclass(frozen=True, slots=True)
class _Unit:
    """One unit's judged queries and all its rankings, by query id; log_odds beside reranked."""

    qrels: Qrels
    first_stage: dict[str, list[str]]
    reranked: dict[str, list[str]]
    log_odds: dict[str, Any]
    groups: dict[str, str | None]

    def run(self) -> bytes:
        """The rankings as lines of a TREC run, documents without an id left out."""
        lines: list[str] = []
        for name, doc_ids in self.reranked.items():
            kept = [i for i, doc_id in enumerate(doc_ids) if not doc_id.startswith(_NO_ID)]
            lines += run_lines(
                name, [doc_ids[i] for i in kept], [self.log_odds[name][i] for i in kept]
            )
        return "".join(f"{line}\n" for line in lines).encode()


class _Reader:
    """Reads units, and counts what cannot be evaluated."""

    def __init__(self, results: Results, judgements: Judgements, by: str | None) -> None:
        self.results, self.judgements, self.by = results, judgements, by
        self.counts = QueryCounts()
        self.seen: dict[str, str] = {}

    def read(self, number: int) -> _Unit:
        """Raises InputError for a query id that was met before: a run would mix the two."""
        id_column = self.results.plan.input_columns.query_id
        columns = [id_column, *self.judgements.row_columns, *([self.by] if self.by else [])]
        fields = ["doc_id", "position", "log_odds", *self.judgements.pair_fields]
        ranked = self.results.read(number, list(dict.fromkeys(columns)), fields)
        names = query_ids_of(ranked, self.results)
        self.counts.unranked_pairs += ranked.num_unranked
        self.counts.without_id += names.count(None)
        grades = self.judgements.of_unit(ranked, names)
        groups = ranked.rows.column(self.by).to_pylist() if self.by else [None] * len(names)
        unit = _Unit({}, {}, {}, {}, {})
        doc_ids, position = _doc_ids(ranked), ranked.pairs.column("position").to_numpy()
        log_odds = ranked.pairs.column("log_odds").to_numpy()
        for i, name in enumerate(names):
            if name is None:
                continue
            if name in self.seen:
                raise InputError(
                    f"query_id {name!r} stands in two rows of the output ({self.seen[name]} and "
                    f"{self.results.name(number)}), so its judgements cannot be told apart; give "
                    "each row a query_id of its own"
                )
            self.seen[name] = self.results.name(number)
            pairs = slice(int(ranked.offsets[i]), int(ranked.offsets[i + 1]))
            found = _without_repeats(doc_ids[pairs], log_odds[pairs])
            self.counts.duplicate_documents += len(doc_ids[pairs]) - len(found)
            unit.reranked[name], unit.log_odds[name] = list(found), list(found.values())
            if not grades[i]:
                self.counts.without_qrels += 1
                continue
            self.counts.empty += not found
            order = np.argsort(position[pairs], kind="stable")
            unit.first_stage[name] = [doc_ids[pairs][place] for place in order]
            unit.qrels[name] = grades[i]
            unit.groups[name] = str(groups[i]) if self.by else None
        return unit


def _doc_ids(ranked: Ranked) -> list[str]:
    """Ids as text; a document without one gets a name that no judgement can have."""
    ids = as_strings(ranked.pairs.column("doc_id"))
    return [f"{_NO_ID}{place}" if doc_id is None else doc_id for place, doc_id in enumerate(ids)]


def _without_repeats(doc_ids: Sequence[str], log_odds: Any) -> dict[str, float]:
    """The first, and so the best, place of each document."""
    found: dict[str, float] = {}
    for doc_id, value in zip(doc_ids, log_odds, strict=True):
        found.setdefault(doc_id, value)
    return found


def _read_run(path: str) -> dict[str, list[str]]:
    """A run's rankings as trec_eval takes them."""
    scored: dict[str, list[tuple[float, str]]] = defaultdict(list)
    for query_id, doc_id, score in parse_run(read_lines(path), path):
        scored[query_id].append((float(np.float32(score)), doc_id))
    return {name: [doc for _, doc in sorted(found, reverse=True)] for name, found in scored.items()}


def _no_query_in_common(source: str, qrels: Mapping[str, Any], seen: Sequence[str]) -> str:
    examples = f"the output has {seen[0]!r}" if seen else "the output has no queries"
    if qrels:
        examples += f", the qrels have {next(iter(qrels))!r}"
    return f"no query of the output is judged in {source}: {examples}; do the ids match?"
