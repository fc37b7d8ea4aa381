"""Labels as JSON lines for FlagEmbedding and tevatron."""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any

from shardrank.labels.chosen import Chosen
from shardrank.store.results import Ranked


def flagembedding(
    ranked: Ranked, chosen: Chosen, queries: Sequence[str], prompts: Sequence[str]
) -> bytes:
    """query, pos, neg, pos_scores, neg_scores (raw log-odds) and prompt, one line a query."""
    texts = ranked.pairs.column("text").to_pylist()
    log_odds = ranked.pairs.column("log_odds").to_pylist()
    return _lines(
        {
            "query": queries[query],
            "pos": [texts[place] for place in positives],
            "neg": [texts[place] for place in negatives],
            "pos_scores": [log_odds[place] for place in positives],
            "neg_scores": [log_odds[place] for place in negatives],
            "prompt": prompts[query],
        }
        for query, positives, negatives in zip(
            chosen.queries.tolist(), chosen.positives, chosen.negatives, strict=True
        )
    )


def tevatron(
    ranked: Ranked, chosen: Chosen, queries: Sequence[str], ids: Sequence[str | None]
) -> bytes:
    """query_id, query, positive_passages, negative_passages, one line a query.

    A passage has docid and text, and a title where the candidates have a field of that name.
    """
    texts = ranked.pairs.column("text").to_pylist()
    doc_ids = [str(value) for value in ranked.pairs.column("doc_id").to_pylist()]
    titles: list[str | None] | None = None
    if "title" in ranked.pairs.column_names:
        titles = ranked.pairs.column("title").to_pylist()

    def passage(place: int) -> dict[str, str]:
        found = {"docid": doc_ids[place], "text": texts[place]}
        # tevatron itself puts a title in front of the text, and a space even before an empty one.
        return found if titles is None else {**found, "title": titles[place] or ""}

    return _lines(
        {
            "query_id": ids[query],
            "query": queries[query],
            "positive_passages": [passage(place) for place in positives],
            "negative_passages": [passage(place) for place in negatives],
        }
        for query, positives, negatives in zip(
            chosen.queries.tolist(), chosen.positives, chosen.negatives, strict=True
        )
    )


def _lines(rows: Any) -> bytes:
    return "".join(
        f"{json.dumps(row, ensure_ascii=False, allow_nan=False)}\n" for row in rows
    ).encode()
