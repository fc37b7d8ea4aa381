"""All labelled queries of a unit, as places in its table of pairs."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass

import numpy as np

from shardrank.labels.rules import LabelRules
from shardrank.labels.selection import select
from shardrank.store.results import Ranked
from shardrank.types import Int64Array


@dataclass(frozen=True, slots=True)
class LabelCounts:
    """What became of the queries. Sums over units are sums of fields.

    without_positives, without_negatives: left out, since they had none, or too few for the format.
    inverted: negatives that the teacher puts above a positive of their query.
    """

    queries: int = 0
    labelled: int = 0
    without_positives: int = 0
    without_negatives: int = 0
    rows: int = 0
    positives: int = 0
    negatives: int = 0
    inverted: int = 0

    def as_dict(self) -> dict[str, int]:
        """The fields by name."""
        return asdict(self)


@dataclass(frozen=True, slots=True)
class Chosen:
    """The labelled queries of a unit.

    queries: int64 [Q], rows of Ranked.rows. positives, negatives: for each of them the places of
        its documents in Ranked.pairs, best first.
    counts: rows is still 0: the format decides it.
    """

    queries: Int64Array
    positives: tuple[Int64Array, ...]
    negatives: tuple[Int64Array, ...]
    counts: LabelCounts


def choose(
    ranked: Ranked,
    keys: Sequence[str],
    grades: Sequence[Mapping[str, int]] | None,
    rules: LabelRules,
    *,
    min_negatives: int,
) -> Chosen:
    """Choose positives and negatives of every query of a unit.

    ranked: with doc_id, text, log_odds and score. keys: the queries' ids.
    grades: of each query, doc_id -> relevance; None for the teacher's best as the only positive.
    min_negatives: a query with fewer is left out.

    A document whose text is that of a positive, and the second of two equal texts, is no negative.
    """
    doc_ids = [str(value) for value in ranked.pairs.column("doc_id").to_pylist()]
    texts = ranked.pairs.column("text").to_pylist()
    log_odds = ranked.pairs.column("log_odds").to_numpy()
    scores = ranked.pairs.column("score").to_numpy()
    queries: list[int] = []
    positives: list[Int64Array] = []
    negatives: list[Int64Array] = []
    without_positives = without_negatives = inverted = 0
    for query in range(len(ranked)):
        start, stop = int(ranked.offsets[query]), int(ranked.offsets[query + 1])
        is_positive = np.zeros(stop - start, np.bool_)
        may_be_negative = np.ones(stop - start, np.bool_)
        if grades is None:
            is_positive[:1] = True
        else:
            values = np.array([grades[query].get(name, 0) for name in doc_ids[start:stop]])
            is_positive = values >= rules.min_relevance
            may_be_negative = values <= 0
        may_be_negative &= _first_of_its_text(texts[start:stop], is_positive)
        found = select(
            log_odds[start:stop],
            scores[start:stop],
            is_positive,
            may_be_negative,
            rules,
            keys[query],
        )
        if not len(found.positives):
            without_positives += 1
        elif len(found.negatives) < min_negatives:
            without_negatives += 1
        else:
            queries.append(query)
            positives.append(start + found.positives)
            negatives.append(start + found.negatives)
            inverted += int(np.count_nonzero(found.negatives < found.positives[-1]))
    counts = LabelCounts(
        queries=len(ranked),
        labelled=len(queries),
        without_positives=without_positives,
        without_negatives=without_negatives,
        positives=sum(map(len, positives)),
        negatives=sum(map(len, negatives)),
        inverted=inverted,
    )
    return Chosen(np.array(queries, np.int64), tuple(positives), tuple(negatives), counts)


def _first_of_its_text(texts: Sequence[str], is_positive: np.ndarray) -> np.ndarray:
    """True where no positive, and no document before, has the same text; bool [N]."""
    seen = {text for text, positive in zip(texts, is_positive, strict=True) if positive}
    is_first = np.zeros(len(texts), np.bool_)
    for place, text in enumerate(texts):
        is_first[place] = text not in seen
        seen.add(text)
    return is_first
