"""What the scores of an output look like, gathered unit by unit."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np

from shardrank.report.histogram import Histogram
from shardrank.store.results import Ranked

SATURATED = 12.0
"""Log-odds whose sigmoid is within 1e-5 of 0 or 1: a trainer on scores sees no difference there."""


def _log_odds() -> Histogram:
    return Histogram.even(-24.0, 24.0, 96)


def _margins() -> Histogram:
    return Histogram.even(-24.0, 24.0, 96)


@dataclass(frozen=True, slots=True)
class ScoreFacts:
    """Of all pairs of an output.

    top: log-odds of each query's best document. num_saturated: pairs beyond SATURATED; num_tied:
    pairs whose log-odds another pair of their query has too.
    margins: log-odds of each judged positive less those of the best document that is none;
    num_below: how many of them are negative.
    """

    log_odds: Histogram = field(default_factory=_log_odds)
    top: Histogram = field(default_factory=_log_odds)
    tokens: Histogram = field(default_factory=lambda: Histogram.doubling(8.0, 65536.0, 8))
    margins: Histogram = field(default_factory=_margins)
    num_pairs: int = 0
    num_queries: int = 0
    num_truncated: int = 0
    num_saturated: int = 0
    num_tied: int = 0
    num_judged: int = 0
    num_below: int = 0

    def add(self, ranked: Ranked, grades: Sequence[Mapping[str, int]] | None) -> ScoreFacts:
        """With the pairs of one more unit.

        ranked: with doc_id, log_odds, num_tokens and truncated. grades: of each query, doc_id ->
        relevance; None where nothing is judged.
        """
        log_odds = ranked.pairs.column("log_odds").to_numpy()
        starts, stops = ranked.offsets[:-1], ranked.offsets[1:]
        filled = stops > starts
        owner = np.repeat(np.arange(len(ranked)), stops - starts)
        tied = np.zeros(len(log_odds), np.bool_)
        if len(log_odds) > 1:
            # Best first, so that equal ones stand side by side.
            same = (log_odds[1:] == log_odds[:-1]) & (owner[1:] == owner[:-1])
            tied[1:] |= same
            tied[:-1] |= same
        margins = _judged_margins(ranked, log_odds, grades)
        return ScoreFacts(
            log_odds=self.log_odds.add(log_odds),
            top=self.top.add(log_odds[starts[filled]]),
            tokens=self.tokens.add(ranked.pairs.column("num_tokens").to_numpy()),
            margins=self.margins.add(margins),
            num_pairs=self.num_pairs + len(log_odds),
            num_queries=self.num_queries + len(ranked),
            num_truncated=self.num_truncated
            + int(np.count_nonzero(ranked.pairs.column("truncated").to_numpy())),
            num_saturated=self.num_saturated + int(np.count_nonzero(np.abs(log_odds) > SATURATED)),
            num_tied=self.num_tied + int(np.count_nonzero(tied)),
            num_judged=self.num_judged + len(margins),
            num_below=self.num_below + int(np.count_nonzero(np.asarray(margins) < 0)),
        )


def _judged_margins(
    ranked: Ranked, log_odds: np.ndarray, grades: Sequence[Mapping[str, int]] | None
) -> list[float]:
    if grades is None:
        return []
    doc_ids = [str(value) for value in ranked.pairs.column("doc_id").to_pylist()]
    margins = []
    for query, judged in enumerate(grades):
        places = range(int(ranked.offsets[query]), int(ranked.offsets[query + 1]))
        others = [place for place in places if judged.get(doc_ids[place], 0) <= 0]
        if others:
            margins += [
                float(log_odds[place]) - float(log_odds[others[0]])
                for place in places
                if judged.get(doc_ids[place], 0) > 0
            ]
    return margins
