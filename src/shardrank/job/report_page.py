"""`shardrank report`: an output folder, and perhaps a second one, as one HTML page."""

from __future__ import annotations

import hashlib
import json
from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence
from datetime import datetime
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from shardrank.errors import OutputError
from shardrank.job.files import as_strings, write_new
from shardrank.job.judgements import Judgements, query_ids_of
from shardrank.job.report import REPORT_NAME
from shardrank.report.agreement import RankedQuery, agreement
from shardrank.report.page import PageFacts, RejectedReason, render_page
from shardrank.report.scores import ScoreFacts
from shardrank.store.commits import SUCCESS_NAME, committed
from shardrank.store.results import Results
from shardrank.types import Counts

PAGE_NAME = "_shardrank/report.html"
MAX_COMPARED = 2000
"""Queries, with all their documents' texts, that are held in memory to compare two outputs."""
_NUM_EXAMPLES = 5


def write_page(
    output: str,
    *,
    compare: str | None = None,
    html: str | None = None,
    qrels: str | None = None,
    max_compared: int = MAX_COMPARED,
) -> tuple[str, PageFacts]:
    """Write the report of an output, finished or not; returns where it is, and what it shows.

    compare: another output over the same queries. html: a file; None for `_shardrank/report.html`
    in the output. qrels: as for evaluate, for the margins of positives.

    Raises OutputError if a folder holds no job, and what Judgements.read raises.
    """
    results = Results.open(output, partial=True)
    judgements = None if qrels is None else Judgements.read(qrels, results)
    other = None if compare is None else Results.open(compare, partial=True)
    facts = _facts(results, judgements, other, max_compared)
    page = render_page(facts).encode("utf-8", "replace")
    if html is None:
        results.storage.replace(PAGE_NAME, page)
        return results.storage.display(PAGE_NAME), facts
    write_new(html, page)
    return html, facts


def _facts(
    results: Results, judgements: Judgements | None, other: Results | None, max_compared: int
) -> PageFacts:
    plan, storage = results.plan, results.storage
    done = committed(storage, plan)
    counts = Counts.total(Counts(**footer["counts"]) for footer in results.footers)
    sample = _Sample(counts.rows_out, max_compared)
    found = None
    if other is not None:
        found = agreement(_queries(results, sample), _queries(other, sample))
    return PageFacts(
        output=storage.display(),
        finished=storage.exists(SUCCESS_NAME),
        num_units=len(plan.units),
        num_pending=len(plan.units) - len(done.done),
        num_failed=len(done.tombstones),
        counts=counts,
        settings=_settings(plan.score_fields, plan.output_fields),
        execution=_execution(results),
        commits=_commits(results.footers),
        engines=Counter(
            ", ".join(str(value) for value in footer["engine"].values())
            for footer in results.footers
        ),
        scores=_scores(results, judgements),
        rejected=_rejected(results),
        compared_with=None if other is None else other.storage.display(),
        agreement=found,
        num_sampled=max_compared if sample.is_part else 0,
    )


class _Sample:
    """About as many queries as are allowed, the same ones in every output: by their id's hash."""

    def __init__(self, num_queries: int, most: int) -> None:
        self.is_part = num_queries > most
        self._below = (1 << 64) * most // max(num_queries, 1)

    def __contains__(self, query_id: str) -> bool:
        if not self.is_part:
            return True
        digest = hashlib.blake2b(query_id.encode("utf-8", "replace"), digest_size=8).digest()
        return int.from_bytes(digest, "big") < self._below


def _settings(*parts: Mapping[str, Any]) -> dict[str, Any]:
    """What was asked, without the names of columns that are called as everybody's are."""
    return {
        name: value
        for part in parts
        for name, value in part.items()
        if not (".columns." in name and name.rsplit(".", 1)[-1] == value)
    }


def _execution(results: Results) -> dict[str, Any]:
    """report.json of the last execution; {} where there is none, or one that cannot be read."""
    wanted = ("units_by_this_run", "seconds", "pairs_per_second", "warnings", "failures", "message")
    try:
        report = json.loads(results.storage.read_bytes(REPORT_NAME))
        return {name: report[name] for name in wanted}
    except (FileNotFoundError, ValueError, KeyError, TypeError):
        return {}


def _commits(footers: Sequence[Mapping[str, Any]]) -> list[tuple[float, int]]:
    ordered = sorted(
        (datetime.fromisoformat(footer["created"]).timestamp(), footer["counts"]["pairs_out"])
        for footer in footers
    )
    return [(at - ordered[0][0], pairs) for at, pairs in ordered]


def _scores(results: Results, judgements: Judgements | None) -> ScoreFacts:
    facts = ScoreFacts()
    columns = [results.plan.input_columns.query_id]
    fields = ["doc_id", "log_odds", "num_tokens", "truncated"]
    if judgements is not None:
        columns += judgements.row_columns
        fields += judgements.pair_fields
    for number in results.numbers:
        ranked = results.read(
            number, list(dict.fromkeys(columns)), list(dict.fromkeys(fields))
        ).scored()
        grades = None
        if judgements is not None:
            grades = judgements.of_unit(ranked, query_ids_of(ranked, results))
        facts = facts.add(ranked, grades)
    return facts


def _queries(results: Results, sample: _Sample) -> dict[str, RankedQuery]:
    """The sampled queries by id; of two rows with one id the first."""
    found: dict[str, RankedQuery] = {}
    columns = results.plan.input_columns
    for number in results.numbers:
        ranked = results.read(
            number, [columns.query_id, columns.query], ["doc_id", "text", "log_odds"]
        ).scored()
        ids = query_ids_of(ranked, results)
        texts = ranked.rows.column(columns.query).to_pylist()
        for i, query_id in enumerate(ids):
            if query_id is None or query_id in found or query_id not in sample:
                continue
            start, stop = int(ranked.offsets[i]), int(ranked.offsets[i + 1])
            pairs = ranked.pairs.slice(start, stop - start)
            found[query_id] = RankedQuery(
                texts[i],
                [str(value) for value in as_strings(pairs.column("doc_id"))],
                pairs.column("text").to_pylist(),
                pairs.column("log_odds").to_pylist(),
            )
    return found


def _rejected(results: Results) -> list[RejectedReason]:
    """Reasons, the most frequent first, from the files that the footers name."""
    numbers: Counter[str] = Counter()
    num_pairs: Counter[str] = Counter()
    examples: dict[str, list[str]] = defaultdict(list)
    for footer in results.footers:
        if not footer["rejected"]:
            continue
        for row in _rejected_rows(results, footer["rejected"]["file"]):
            numbers[row["code"]] += 1
            num_pairs[row["code"]] += row["num_pairs"]
            if len(examples[row["code"]]) < _NUM_EXAMPLES:
                examples[row["code"]].append(_place(row))
    return [
        RejectedReason(code, count, num_pairs[code], tuple(examples[code]))
        for code, count in numbers.most_common()
    ]


def _rejected_rows(results: Results, name: str) -> list[dict[str, Any]]:
    try:
        with results.storage.open_input(name) as source:
            rows: list[dict[str, Any]] = pq.read_table(source).to_pylist()
            return rows
    except (pa.ArrowException, OSError) as error:
        raise OutputError(
            f"{results.storage.display(name)} cannot be read ({error}); find out with "
            "`shardrank verify` what was changed"
        ) from error


def _place(row: Mapping[str, Any]) -> str:
    where = f"{row['shard']}, row {row['row']}"
    if row["position"] is not None:
        where += f", candidate {row['position']}"
    ids = " / ".join(str(row[name]) for name in ("query_id", "doc_id") if row[name] is not None)
    return f"{where}{f' ({ids})' if ids else ''}: {row['message']}"


def render_summary(place: str, facts: PageFacts) -> str:
    """A few lines for people."""
    lines = [f"report: {place}"]
    found = facts.agreement
    if found is not None:
        lines.append(
            f"agreement over {found.num_queries:,} queries: Kendall tau {found.tau:.4f}, "
            f"overlap of the (at most) ten best {found.top_overlap:.1%}, "
            f"same best {found.top_1:.1%}"
        )
    elif facts.compared_with is not None:
        lines.append("agreement: the two outputs have no query with two documents in common")
    return "\n".join(lines)
