"""Measures of rankings against judgements, by ir_measures.

A ranking is a sequence of document ids, best first. It is handed over as scores that fall by one at
each rank, so that no provider's rule for ties can change it.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import ir_measures

from shardrank.errors import ConfigError
from shardrank.measures.trec import Qrels

DEFAULT_MEASURES = "nDCG@10,RR@10,AP,R@100"


def parse_measures(text: str) -> dict[str, Any]:
    """Measures by name, from a list such as `nDCG@10,RR@10,AP,R@100,Success@5`.

    Raises ConfigError for one that is unknown, or that no installed provider computes.
    """
    measures: dict[str, Any] = {}
    for name in _split(text):
        try:
            measure = ir_measures.parse_measure(name)
        except (NameError, ValueError, TypeError, SyntaxError) as error:
            raise ConfigError(
                f"the measure {name!r} is unknown ({error}); use names of ir_measures, such as "
                f"{DEFAULT_MEASURES.replace(',', ', ')}, Success@5"
            ) from error
        if not ir_measures.DefaultPipeline.supports(measure):
            raise ConfigError(
                f"the measure {name!r} needs a provider that is not installed; "
                "`ir_measures --provider` lists them, pytrec_eval has most"
            )
        measures[str(measure)] = measure
    if not measures:
        raise ConfigError(f"no measures are given; for example --measures {DEFAULT_MEASURES}")
    return measures


def evaluate_rankings(
    measures: Mapping[str, Any], qrels: Qrels, rankings: Mapping[str, Sequence[str]]
) -> dict[str, dict[str, float]]:
    """Each measure of each query that has both judgements and a ranking: query -> name -> value.

    An empty ranking counts 0 in every measure, as with `trec_eval -c`. Of a document that stands
    in a ranking twice, the better place counts.
    """
    shared = {query_id: qrels[query_id] for query_id in rankings if query_id in qrels}
    run = {
        query_id: _falling(ranking) for query_id, ranking in rankings.items() if query_id in shared
    }
    # In the order asked for: ir_measures gives them as its providers come.
    values = {query_id: dict.fromkeys(measures, 0.0) for query_id in shared}
    if not shared:
        return values
    for found in ir_measures.iter_calc(list(measures.values()), shared, run):
        values[found.query_id][str(found.measure)] = float(found.value)
    return values


def _falling(ranking: Sequence[str]) -> dict[str, float]:
    scores: dict[str, float] = {}
    for rank, doc_id in enumerate(ranking):
        scores.setdefault(doc_id, float(len(ranking) - rank))
    return scores


def _split(text: str) -> list[str]:
    """The names between commas, where a comma inside brackets parts nothing."""
    names, depth, start = [], 0, 0
    for i, character in enumerate(text):
        depth += {"(": 1, ")": -1}.get(character, 0)
        if character == "," and depth == 0:
            names.append(text[start:i])
            start = i + 1
    names.append(text[start:])
    return [name.strip() for name in names if name.strip()]
