"""Small inputs for tests, nested and as pairs."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

CANDIDATES = pa.list_(pa.struct([("doc_id", pa.string()), ("text", pa.string())]))
NESTED = pa.schema([("query_id", pa.string()), ("query", pa.string()), ("candidates", CANDIDATES)])
WORDS = "amber bridge copper delta ember falcon granite harbour indigo juniper".split()


def text(number: int, num_words: int) -> str:
    """Some words; the same number gives the same words."""
    return " ".join(WORDS[(number * 7 + place * place) % len(WORDS)] for place in range(num_words))


def row(number: int, num_candidates: int = 4, **columns: Any) -> dict[str, Any]:
    """A nested row whose documents have 1 to 40 words."""
    return {
        "query_id": f"q{number}",
        "query": text(number, 4),
        "candidates": [
            {"doc_id": f"d{number}-{place}", "text": text(number + place, 1 + 13 * place % 40)}
            for place in range(num_candidates)
        ],
        **columns,
    }


def write_nested(
    path: Path,
    rows: list[dict[str, Any]],
    schema: pa.Schema = NESTED,
    row_group_size: int | None = None,
) -> Path:
    """One shard of nested rows."""
    path.parent.mkdir(parents=True, exist_ok=True)
    table = pa.Table.from_pylist(rows, schema=schema)
    pq.write_table(table, path, row_group_size=row_group_size)
    return path


def write_pairs(path: Path, rows: list[dict[str, Any]], row_group_size: int | None = None) -> Path:
    """The same rows, a pair a row."""
    pairs = [
        {"query_id": row["query_id"], "query": row["query"], **candidate}
        for row in rows
        for candidate in row["candidates"]
    ]
    path.parent.mkdir(parents=True, exist_ok=True)
    pq.write_table(pa.Table.from_pylist(pairs), path, row_group_size=row_group_size)
    return path


def read_output(folder: Path) -> list[dict[str, Any]]:
    """All rows of an output, in the order of its files' names."""
    files = sorted(folder.glob("*.parquet"))
    return [row for file in files for row in pq.read_table(file).to_pylist()]
