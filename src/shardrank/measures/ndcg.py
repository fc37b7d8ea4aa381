"""Normalised discounted cumulative gain."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np


def ndcg(relevances: Sequence[float], cutoff: int, judged: Sequence[float] | None = None) -> float:
    """nDCG of one ranking, in [0, 1]; NaN where the query has no relevant document.

    relevances: the grade of each returned document, best rank first.
    judged: the grades of all judged documents, where the ranking does not hold them all.

    The gain is the grade itself and the discount log2(rank + 1), as trec_eval does it (Järvelin
    and Kekäläinen, 2002).
    """
    ideal = np.sort(np.asarray(relevances if judged is None else judged, np.float64))[::-1]
    best = _dcg(ideal[:cutoff])
    if best == 0.0:
        return float("nan")
    return _dcg(np.asarray(relevances, np.float64)[:cutoff]) / best


def _dcg(gains: np.ndarray) -> float:
    return float(np.sum(gains / np.log2(np.arange(2, len(gains) + 2))))
