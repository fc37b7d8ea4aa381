"""`shardrank gather`: a run, its queries and a corpus joined into shards of candidates.

The run and the queries are held in memory (about 100 bytes a candidate); the corpus never is: each
piece of it is read once, only documents that the run names go on, and Ray Data joins these with the
candidates and brings together what belongs into one shard. Which shard a query is in depends on its
id alone, so that the same command gives the same shards.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from functools import partial
from typing import Any

import pyarrow as pa

from shardrank.errors import InputError, OutputError, ShardrankError
from shardrank.job.files import DOC_ID, QUERY_ID, SCORE, TEXT, TITLE, find_column, read_lines
from shardrank.job.tasks import cause_of
from shardrank.measures.trec import parse_run
from shardrank.store.chunks import Chunk, kind_of, list_chunks, read_all
from shardrank.store.filesystem import Storage
from shardrank.store.gathered import MISSING_FOLDER, Run, order_run
from shardrank.types import Layout

SUMMARY_NAME = "_shardrank/gather.json"
_CANDIDATES_PER_SHARD = 50_000
_MAX_BROADCAST_IDS = 20_000_000
_MAX_PARTITIONS = 200
_NUM_EXAMPLES = 3
_KEY = pa.large_string()


@dataclass(frozen=True, slots=True)
class GatherCounts:
    """What became of a run's candidates: rows of the run = candidates + cut + repeated + missing.

    no_query, no_document: candidates whose query, or whose document, is nowhere; queries_left_out:
    queries of the run without any document left.
    """

    queries: int = 0
    candidates: int = 0
    no_query: int = 0
    no_document: int = 0
    queries_left_out: int = 0
    cut: int = 0
    repeated: int = 0
    shards: int = 0


@dataclass(frozen=True, slots=True)
class Gathered:
    """A folder of shards, ready for `shardrank rerank`."""

    output: str
    counts: GatherCounts
    missing_examples: tuple[str, ...]

    def as_dict(self) -> dict[str, Any]:
        """Ready for JSON."""
        return {
            "output": self.output,
            **asdict(self.counts),
            "missing_examples": list(self.missing_examples),
        }


@dataclass(frozen=True, slots=True)
class _Corpus:
    """How a piece of the corpus is read: the columns' names; title None where there is none."""

    doc_id: str
    text: str
    title: str | None
    keep_title: bool


def gather(
    run: str,
    queries: str,
    corpus: str,
    output: str,
    *,
    top_k: int | None = None,
    layout: Layout = "nested",
    keep_title: bool = False,
    fail_on_missing: bool = False,
    address: str | None = None,
) -> Gathered:
    """Write nested shards (or pairs) of a run's candidates to a new folder.

    run: a TREC run, or Parquet with query_id, doc_id and score. queries, corpus: a file or a folder
    of Parquet, JSON lines or tab-separated text. keep_title: a title stays a field of its own
    instead of standing in front of the text, as BEIR has it.

    Raises InputError for input that cannot be read and, with fail_on_missing, if ids are missing;
    OutputError if the folder is not empty.
    """
    target = Storage(output)
    others = [file.path for file in target.list_files(recursive=False) if file.path[0] != "."]
    if others:
        raise OutputError(
            f"{target.display()} is not empty (it holds {others[0]}); choose a new folder"
        )
    ordered = order_run(_read_run(run), top_k)
    query_table = _read_queries(queries)
    chunks = list_chunks(corpus, (*DOC_ID, *TEXT, *TITLE))
    roles = _corpus_roles(chunks, corpus, keep_title)
    num_shards = max(1, -(-ordered.table.num_rows // _CANDIDATES_PER_SHARD))
    receipts = _run_on_ray(ordered, query_table, chunks, roles, target, layout, num_shards, address)
    found = _summary(ordered, receipts, target)
    if fail_on_missing and (found.counts.no_query or found.counts.no_document):
        raise InputError(f"{_missing_line(found)}; nothing is marked as done")
    target.create_exclusive(SUMMARY_NAME, json.dumps(found.as_dict()).encode())
    target.create_exclusive("_SUCCESS", json.dumps(found.as_dict()).encode())
    return found


def render_gathered(found: Gathered) -> str:
    """A few lines for people."""
    counts = found.counts
    lines = [
        f"done: {counts.candidates:,} candidates of {counts.queries:,} queries in "
        f"{counts.shards:,} shards in {found.output}"
    ]
    if counts.cut or counts.repeated:
        lines.append(
            f"      {counts.cut:,} cut by top_k, {counts.repeated:,} repeated documents left out"
        )
    if counts.no_query or counts.no_document:
        lines.append(f"      {_missing_line(found)}")
    lines.append(f"next: shardrank rerank --input {found.output} --output RERANKED --model MODEL")
    return "\n".join(lines)


def _missing_line(found: Gathered) -> str:
    counts = found.counts
    return (
        f"missing: {counts.no_document:,} candidates without a document, {counts.no_query:,} "
        f"without a query, such as {', '.join(found.missing_examples)}; all are listed in "
        f"{found.output}/{MISSING_FOLDER}"
    )


def _read_run(path: str) -> pa.Table:
    if kind_of(path) == "parquet":
        chunks = list_chunks(path, ())
        names = chunks[0].columns if chunks else ()
        wanted = [
            find_column(names, roles, what, path)
            for roles, what in ((QUERY_ID, "query ids"), (DOC_ID[:5], "document ids"))
        ]
        score = find_column(names, SCORE, "scores", path)
        table = read_all(path, [*wanted, score], chunks)
        found = [table.column(name) for name in wanted]
        table = pa.table([*found, table.column(score).cast(pa.float64())], _RUN_NAMES)
    else:
        rows = list(zip(*parse_run(read_lines(path), path), strict=True))
        table = pa.table(
            [pa.array(rows[0], _KEY), pa.array(rows[1], _KEY), pa.array(rows[2], pa.float64())]
            if rows
            else [pa.array([], _KEY), pa.array([], _KEY), pa.array([], pa.float64())],
            _RUN_NAMES,
        )
    if not table.num_rows:
        raise InputError(f"the run {path} holds no candidates")
    if any(column.null_count for column in table.columns):
        raise InputError(f"the run {path} holds a null id or score; leave such rows out")
    return table


_RUN_NAMES = ["query_id", "doc_id", "score"]


def _read_queries(path: str) -> pa.Table:
    """query_id, query, and every other column as text."""
    chunks = list_chunks(path, (*QUERY_ID, *TEXT))
    names = chunks[0].columns if chunks else ()
    query_id = find_column(names, QUERY_ID, "query ids", path)
    query = find_column(
        [name for name in names if name != query_id],
        ("query", "question", "text", *TEXT),
        "queries",
        path,
    )
    others = [name for name in names if name not in (query_id, query)]
    table = read_all(path, [query_id, query, *others], chunks)
    table = table.rename_columns(["query_id", "query", *others])
    if table.column("query_id").null_count:
        raise InputError(f"{path} holds a query without an id; give each one an id")
    return table.cast(pa.schema([(name, pa.string()) for name in table.column_names]))


def _corpus_roles(chunks: Sequence[Chunk], path: str, keep_title: bool) -> _Corpus:
    if not chunks:
        raise InputError(f"the corpus {path} holds no documents")
    names = chunks[0].columns
    doc_id = find_column(names, DOC_ID, "document ids", path)
    text = find_column([n for n in names if n != doc_id], TEXT, "texts", path)
    title = next((name for name in TITLE if name in names), None)
    return _Corpus(doc_id, text, title, keep_title)


def _run_on_ray(
    run: Run,
    queries: pa.Table,
    chunks: Sequence[Chunk],
    roles: _Corpus,
    target: Storage,
    layout: Layout,
    num_shards: int,
    address: str | None,
) -> list[dict[str, Any]]:
    import polars  # noqa: F401  (Ray Data's join needs it, and says so only half-way)
    import ray

    from shardrank.job.cluster import connected
    from shardrank.job.gather_stages import documents_of, write_shard
    from shardrank.job.quiet_data import quiet_data

    ids = run.table.column("doc_id").combine_chunks().unique()
    with connected(address), quiet_data():
        wanted = ray.put(ids if len(ids) <= _MAX_BROADCAST_IDS else None)
        rows = [{"chunk": i} for i in range(len(chunks))]
        documents = ray.data.from_items(rows, override_num_blocks=len(rows)).map_batches(
            partial(documents_of, chunks=list(chunks), roles=roles, wanted=wanted),
            batch_size=1,
            batch_format="pyarrow",
        )
        table = run.table.append_column("shard", _shards(run.table.column("query_id"), num_shards))
        candidates = ray.data.from_arrow(_blocks(table))
        num_partitions = max(2, min(num_shards, _MAX_PARTITIONS))
        joined = candidates.join(
            documents, "left_outer", num_partitions, on=("doc_id",), aggregator_ray_remote_args={}
        )
        query_ref = ray.put(queries)
        receipts = joined.groupby("shard", num_partitions=num_partitions).map_groups(
            partial(write_shard, queries=query_ref, target=target, layout=layout),
            batch_format="pyarrow",
        )
        try:
            return [json.loads(row["receipt"]) for row in receipts.take_all()]
        except Exception as error:
            found = cause_of(error)
            if found is not None:
                raise found from error
            raise


def _shards(query_ids: Any, num_shards: int) -> pa.Array:
    """Which shard each query is in, by its id alone."""
    encoded = query_ids.combine_chunks().dictionary_encode()
    numbers = [
        int.from_bytes(hashlib.blake2b(name.encode(), digest_size=8).digest(), "big") % num_shards
        for name in encoded.dictionary.to_pylist()
    ]
    return pa.array(numbers, pa.int32()).take(encoded.indices)


def _blocks(table: pa.Table) -> list[pa.Table]:
    size = 100_000
    return [table.slice(start, size) for start in range(0, table.num_rows, size)]


def _summary(run: Run, receipts: Sequence[dict[str, Any]], target: Storage) -> Gathered:
    counts = GatherCounts(cut=run.num_cut, repeated=run.num_repeated)
    for name in ("queries", "candidates", "no_query", "no_document"):
        counts = replace(counts, **{name: sum(receipt[name] for receipt in receipts)})
    num_queries = len(run.table.column("query_id").unique())
    counts = replace(
        counts,
        queries_left_out=num_queries - counts.queries,
        shards=sum(receipt["queries"] > 0 for receipt in receipts),
    )
    lost = run.table.num_rows - counts.candidates - counts.no_query - counts.no_document
    if lost:
        raise ShardrankError(
            f"{lost:,} of {run.table.num_rows:,} candidates were lost on the way; nothing is "
            f"marked as done in {target.display()}; run it again into a new folder"
        )
    if not counts.candidates:
        raise InputError(
            "no candidate of the run has both a query and a document: "
            f"{receipts[0]['examples'][0] if receipts and receipts[0]['examples'] else ''}; do "
            "the ids match?"
        )
    examples = [example for receipt in receipts for example in receipt["examples"]]
    return Gathered(target.display(), counts, tuple(sorted(examples)[:_NUM_EXAMPLES]))
