"""Scores of a handful of pairs, for people and scripts: what `shardrank score` prints."""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from shardrank.engine.ranking import rank_order, sigmoid
from shardrank.engine.reranker import Reranker, refuse_broken_text
from shardrank.errors import InputError


@dataclass(frozen=True, slots=True)
class Pair:
    """A query and a document; instruction is None for the job's or the model's own."""

    query: str
    document: str
    instruction: str | None = None


def parse_pairs(lines: Iterable[str], name: str) -> list[Pair]:
    """Pairs of JSON lines {"query", "document", "instruction"?}; empty lines are skipped.

    name: of the file, for messages. Raises InputError with the number of the line.
    """
    pairs = []
    for number, line in enumerate(lines, start=1):
        if not line.strip():
            continue
        try:
            values = json.loads(line)
            pair = Pair(values["query"], values["document"], values.get("instruction"))
        except (ValueError, TypeError, KeyError, AttributeError):
            pair = None
        if pair is None or not _is_sound(pair):
            raise InputError(
                f'{name}, line {number}: write each line as {{"query": text, "document": text}}, '
                'with "instruction": text if you want one'
            )
        pairs.append(pair)
    if not pairs:
        raise InputError(f"{name} holds no pairs; write one JSON object a line")
    return pairs


def score_pairs(
    reranker: Reranker, pairs: Sequence[Pair], *, show_ids: bool = False
) -> list[dict[str, Any]]:
    """One dictionary a pair: query by query, best first, ranks counted within a query.

    Keys: index (place among the pairs), log_odds, score, rank, num_tokens, truncated, and
    token_ids with show_ids. Raises InputError, QueryTooLongError and ModelError.
    """
    asked = [(pair.query, pair.instruction) for pair in pairs]
    queries = {query: number for number, query in enumerate(dict.fromkeys(asked))}
    query_index = np.array([queries[query] for query in asked], np.int64)
    refuse_broken_text([query for query, _ in queries], "query")
    refuse_broken_text([pair.document for pair in pairs], "document")
    refuse_broken_text([text for _, text in queries if text is not None], "instruction")
    built = reranker.prompts.build_many(
        [query for query, _ in queries],
        [pair.document for pair in pairs],
        query_index,
        [instruction for _, instruction in queries],
    )
    values = reranker.log_odds_of(built)
    scores = sigmoid(values)
    order, ranks = rank_order(values, query_index)
    results = []
    for index in order.tolist():
        result: dict[str, Any] = {
            "index": index,
            "log_odds": float(values[index]),
            "score": float(scores[index]),
            "rank": int(ranks[index]),
            "num_tokens": len(built.prompts[index]),
            "truncated": bool(built.prompts.truncated[index]),
        }
        if show_ids:
            result["token_ids"] = built.prompts[index].tolist()
        results.append(result)
    return results


def _is_sound(pair: Pair) -> bool:
    has_instruction = pair.instruction is None or isinstance(pair.instruction, str)
    return isinstance(pair.query, str) and isinstance(pair.document, str) and has_instruction
