"""`shardrank demo`: the main job on the built-in model and candidates, and what it changed."""

from __future__ import annotations

import math
import shutil
import sys
from collections.abc import Callable
from importlib import resources
from pathlib import Path
from typing import Any, TextIO

import pyarrow.parquet as pq

from shardrank.config import load_config
from shardrank.engine.reranker import DEMO
from shardrank.job.cluster import LOCAL
from shardrank.job.rerank import rerank
from shardrank.measures.ndcg import ndcg
from shardrank.store.filesystem import absolute

DEFAULT_OUTPUT = "shardrank-demo"
UNIT_PAIRS = 100
CUTOFF = 10
SHOWN_QUERY = "databases-q2"


def run_demo(
    output: str | None, *, echo: Callable[[str], Any], progress: TextIO | None = None
) -> Path:
    """Rerank the built-in candidates and print speed, quality before and after, and an example.

    output: a folder; None for a new one in the working directory. Returns the folder.
    """
    folder = Path(absolute(output)) if output is not None else _unused(Path(DEFAULT_OUTPUT))
    candidates = resources.files("shardrank") / "demo" / "candidates"
    config = load_config(
        None,
        [
            f"input.path={candidates}",
            f"output.path={folder}",
            f"model.path={DEMO}",
            f"units.pairs={UNIT_PAIRS}",
            # The first thing that a stranger runs must not land in a colleague's cluster.
            f"cluster.address={LOCAL}",
        ],
    )
    echo("reranking 60 queries x 20 passages in six languages with the built-in model")
    rerank(config, progress=progress, echo=echo)
    rows = [
        row for file in sorted(folder.glob("*.parquet")) for row in pq.read_table(file).to_pylist()
    ]
    for line in (*_quality(rows), "", *_example(rows), "", *_next_steps(folder)):
        echo(line)
    return folder


def _quality(rows: list[dict[str, Any]]) -> list[str]:
    """nDCG before (by position in the input) and after, per language and over all queries."""
    lines = [f"nDCG@{CUTOFF}       first stage    reranked"]
    languages = sorted({row["language"] for row in rows})
    for name in [*languages, "all"]:
        chosen = [row["candidates"] for row in rows if name in ("all", row["language"])]
        before = _mean_ndcg(chosen, "position")
        after = _mean_ndcg(chosen, "rank")
        lines.append(f"  {name:4} ({len(chosen):2})       {before:.3f}       {after:.3f}")
    return lines


def _mean_ndcg(queries: list[list[dict[str, Any]]], order_by: str) -> float:
    values = [
        ndcg([c["relevance"] for c in sorted(candidates, key=lambda c: c[order_by])], CUTOFF)
        for candidates in queries
    ]
    finite = [value for value in values if not math.isnan(value)]
    return sum(finite) / len(finite)


def _example(rows: list[dict[str, Any]]) -> list[str]:
    row = next((row for row in rows if row["query_id"] == SHOWN_QUERY), rows[0])
    lines = [f"the five best of 20 passages for: {row['query']}"]
    for candidate in row["candidates"][:5]:
        grade = "*" * candidate["relevance"]
        lines.append(
            f"  {candidate['rank']}  (was {candidate['position'] + 1:2})  "
            f"{candidate['log_odds']:+6.2f}  {grade:2}  {candidate['text'][:72]}..."
        )
    lines.append("  (* related, ** answers the query)")
    return lines


def _next_steps(folder: Path) -> list[str]:
    return [
        f"output: {folder}/*.parquet, and what happened in {folder}/_SUCCESS",
        f"next:   {_command()} status {folder}",
        "        shardrank rerank --input YOUR_FOLDER --output RERANKED --model MODEL",
    ]


def _command() -> str:
    """shardrank, or the path to it for whoever has not activated its environment."""
    return "shardrank" if shutil.which("shardrank") else f"{Path(sys.executable).parent}/shardrank"


def _unused(folder: Path) -> Path:
    """The folder, or the same with the first number that is free: a demo overwrites nothing."""
    number = 2
    found = folder
    while found.exists():
        found = folder.with_name(f"{folder.name}-{number}")
        number += 1
    return found
