"""How far two outputs order the same documents alike: one model against another, or a precision."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from shardrank.measures.kendall_tau import kendall_tau

TOP = 10
_NUM_SHOWN = 10
_NUM_DOCUMENTS_SHOWN = 3


@dataclass(frozen=True, slots=True)
class RankedQuery:
    """A query as an output ranked it: documents best first."""

    query: str
    doc_ids: Sequence[str]
    texts: Sequence[str]
    log_odds: Sequence[float]


@dataclass(frozen=True, slots=True)
class Moved:
    """A document that the two outputs place differently; ranks from 1."""

    doc_id: str
    text: str
    rank: int
    other_rank: int
    log_odds: float
    other_log_odds: float


@dataclass(frozen=True, slots=True)
class Disagreement:
    """A query whose order differs, and the documents that moved most."""

    query_id: str
    query: str
    tau: float
    moved: tuple[Moved, ...]


@dataclass(frozen=True, slots=True)
class Agreement:
    """Over the queries that both outputs have with at least two documents in common.

    taus: Kendall's tau-b of each, ties left out. top_overlap: mean part of the ten best of one that
    are among the ten best of the other. top_1: part whose best document is the same.
    error_rms: root mean square of the difference in log-odds. worst: least tau first.
    """

    num_queries: int
    num_pairs: int
    taus: tuple[float, ...]
    top_overlap: float
    top_1: float
    error_rms: float
    worst: tuple[Disagreement, ...]

    @property
    def tau(self) -> float:
        """The mean tau; NaN without one."""
        return float(np.mean(self.taus)) if self.taus else float("nan")


def agreement(one: Mapping[str, RankedQuery], other: Mapping[str, RankedQuery]) -> Agreement | None:
    """Compare two outputs by query_id and doc_id; None where they have no query in common."""
    taus: list[float] = []
    overlaps: list[float] = []
    firsts: list[bool] = []
    errors: list[np.ndarray] = []
    found: list[Disagreement] = []
    for query_id in sorted(one.keys() & other.keys()):
        first, second = one[query_id], other[query_id]
        places = {doc_id: place for place, doc_id in enumerate(second.doc_ids)}
        pairs = [(i, places[doc_id]) for i, doc_id in enumerate(first.doc_ids) if doc_id in places]
        if len(pairs) < 2:
            continue
        log_odds = np.array([first.log_odds[i] for i, _ in pairs], np.float64)
        others = np.array([second.log_odds[j] for _, j in pairs], np.float64)
        errors.append(log_odds - others)
        # One of them may hold fewer, after a top_k: no more than those can be in both.
        num_best = min(TOP, len(first.doc_ids), len(second.doc_ids))
        best = set(first.doc_ids[:num_best])
        overlaps.append(len(best.intersection(second.doc_ids[:num_best])) / num_best)
        firsts.append(first.doc_ids[0] == second.doc_ids[0])
        tau = kendall_tau(log_odds, others)
        if not np.isnan(tau):
            taus.append(tau)
            found.append(_disagreement(query_id, tau, first, second, pairs))
    if not overlaps:
        return None
    found.sort(key=lambda disagreement: (disagreement.tau, disagreement.query_id))
    return Agreement(
        num_queries=len(overlaps),
        num_pairs=sum(map(len, errors)),
        taus=tuple(taus),
        top_overlap=float(np.mean(overlaps)),
        top_1=float(np.mean(firsts)),
        error_rms=float(np.sqrt(np.mean(np.concatenate(errors) ** 2))),
        worst=tuple(item for item in found[:_NUM_SHOWN] if item.tau < 1.0),
    )


def _disagreement(
    query_id: str,
    tau: float,
    first: RankedQuery,
    second: RankedQuery,
    pairs: Sequence[tuple[int, int]],
) -> Disagreement:
    """The documents that moved furthest, those near the top first among equals."""
    ordered = sorted(pairs, key=lambda pair: (-abs(pair[0] - pair[1]), min(pair)))
    moved = tuple(
        Moved(
            doc_id=first.doc_ids[i],
            text=first.texts[i],
            rank=i + 1,
            other_rank=j + 1,
            log_odds=float(first.log_odds[i]),
            other_log_odds=float(second.log_odds[j]),
        )
        for i, j in ordered[:_NUM_DOCUMENTS_SHOWN]
        if i != j
    )
    return Disagreement(query_id, first.query, tau, moved)
