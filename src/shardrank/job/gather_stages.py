"""What the workers of `gather` do: read a piece of the corpus, write a shard."""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
import ray

from shardrank.store.chunks import Chunk
from shardrank.store.filesystem import Storage
from shardrank.store.gathered import MISSING_FOLDER, build_rows, documents
from shardrank.store.same_file import create_same
from shardrank.types import Layout

_NUM_EXAMPLES = 3


def documents_of(batch: pa.Table, chunks: Sequence[Chunk], roles: Any, wanted: Any) -> pa.Table:
    """The documents of one piece that the run names: doc_id, text and perhaps title."""
    names = [roles.doc_id, roles.text, *([roles.title] if roles.title else [])]
    table = chunks[batch["chunk"][0].as_py()].read(names)
    ids = ray.get(wanted)
    return documents(
        table.column(roles.doc_id),
        table.column(roles.text),
        table.column(roles.title) if roles.title else None,
        wanted=ids,
        keep_title=roles.keep_title,
    )


def write_shard(group: pa.Table, queries: Any, target: Storage, layout: Layout) -> pa.Table:
    """Write all rows of one shard, and what is missing of it; its receipt."""
    number = group["shard"][0].as_py()
    rows, missing = build_rows(group.drop_columns(["shard"]), ray.get(queries), layout)
    num_candidates = rows.num_rows
    if layout == "nested":
        num_candidates = len(pc.list_flatten(rows.column("candidates")))
    num_queries = len(rows.column("query_id").unique())
    if rows.num_rows:
        create_same(target, f"part-{number:05d}.parquet", _encode(rows))
    if missing.num_rows:
        create_same(target, f"{MISSING_FOLDER}/part-{number:05d}.parquet", _encode(missing))
    reasons = missing.column("reason").to_pylist()
    receipt = {
        "queries": num_queries,
        "candidates": num_candidates,
        "no_query": reasons.count("no_query"),
        "no_document": reasons.count("no_document"),
        "examples": [
            f"{row['doc_id']} of query {row['query_id']} ({row['reason']})"
            for row in missing.slice(0, _NUM_EXAMPLES).to_pylist()
        ],
    }
    return pa.table({"receipt": [json.dumps(receipt)]})


def _encode(table: pa.Table) -> bytes:
    sink = pa.BufferOutputStream()
    pq.write_table(table, sink, compression="zstd", row_group_size=1000)
    data: bytes = sink.getvalue().to_pybytes()
    return data
