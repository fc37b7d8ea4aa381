"""Whether a ranking follows a changed instruction: p-MRR of FollowIR."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np

_ORIGINAL, _CHANGED = "-og", "-changed"


def p_mrr(
    rankings: Mapping[str, Sequence[str]], changed: Mapping[str, Sequence[str]]
) -> dict[str, float]:
    """p-MRR of each query, in [-1, 1]; positive where the ranking went along with the change.

    rankings: document ids, best first, of `<query>-og` and `<query>-changed`.
    changed: for each query the documents that the changed instruction made irrelevant.

    A document that moves from rank r to rank n counts n / r - 1 where it rose and 1 - r / n where
    it fell; one that is missing stands behind the last (Weller and others, 2024). Queries without
    both rankings or without a changed document are left out.
    """
    values = {}
    for query, doc_ids in changed.items():
        before = rankings.get(f"{query}{_ORIGINAL}")
        after = rankings.get(f"{query}{_CHANGED}")
        if before is None or after is None or not doc_ids:
            continue
        values[query] = float(
            np.mean([_shift(_rank(before, doc), _rank(after, doc)) for doc in doc_ids])
        )
    return values


def _shift(before: int, after: int) -> float:
    return after / before - 1.0 if after <= before else 1.0 - before / after


def _rank(ranking: Sequence[str], doc_id: str) -> int:
    return ranking.index(doc_id) + 1 if doc_id in ranking else len(ranking) + 1
