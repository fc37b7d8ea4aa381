"""Judged pairs of real text to compare models on: some of the candidates shipped with shardrank."""

from __future__ import annotations

from dataclasses import dataclass
from importlib import resources
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq

from shardrank.engine.model import PreparedModel
from shardrank.engine.prompt import PromptBuilder
from shardrank.engine.tokenizer import Tokenizer
from shardrank.types import Float64Array, Int64Array, Prompts

# English, and a mixture of other languages.
_SHARDS = ("en-0.parquet", "world-0.parquet")
_CANDIDATES = 10
# Enough for texts of two or three sentences; bounds the time with a tokenizer of bytes.
_MAX_TOKENS = 512


@dataclass(frozen=True, slots=True)
class JudgedPairs:
    """Queries with candidates and their judgements.

    queries: texts [num_queries]. documents: texts [num_pairs]. query_index: int64 [num_pairs],
    relevance: float64 [num_pairs], the grade that a person gave.
    """

    queries: tuple[str, ...]
    documents: tuple[str, ...]
    query_index: Int64Array
    relevance: Float64Array

    def __len__(self) -> int:
        return len(self.documents)

    def by_query(self, values: Float64Array) -> list[Float64Array]:
        """Values [num_pairs], query by query."""
        return [values[self.query_index == query] for query in range(len(self.queries))]

    def prompts(self, tokenizer: Tokenizer, model: PreparedModel, max_tokens: int) -> Prompts:
        """The model's own prompts, one for each pair, long documents cut.

        Raises ConfigError if max_tokens has no room for the template.
        """
        builder = PromptBuilder(
            tokenizer, model.prompt_style, model.instruction, min(max_tokens, _MAX_TOKENS)
        )
        return builder.build_many(self.queries, self.documents, self.query_index).prompts


def judged_pairs(queries_a_shard: int) -> JudgedPairs:
    """Ten candidates for each of this many queries of two shards; the same for every call."""
    folder = Path(str(resources.files("shardrank"))) / "demo" / "candidates"
    queries: list[str] = []
    documents: list[str] = []
    query_index: list[int] = []
    relevance: list[float] = []
    for name in _SHARDS:
        rows = pq.read_table(folder / name, columns=["query", "candidates"]).to_pylist()
        step = len(rows) // queries_a_shard
        for row in rows[::step][:queries_a_shard]:
            for candidate in row["candidates"][:_CANDIDATES]:
                documents.append(candidate["text"])
                relevance.append(float(candidate["relevance"] or 0))
                query_index.append(len(queries))
            queries.append(row["query"])
    return JudgedPairs(
        tuple(queries),
        tuple(documents),
        np.array(query_index, np.int64),
        np.array(relevance, np.float64),
    )
