"""Measures of rankings: equal to trec_eval's code and to a computation of our own."""

import math

import numpy as np
import pytest
import pytrec_eval

from shardrank.errors import ConfigError
from shardrank.measures.ndcg import ndcg
from shardrank.measures.retrieval import DEFAULT_MEASURES, evaluate_rankings, parse_measures

MEASURES = "nDCG@10,RR,AP,R@5,Success@5"
NAMES = ("ndcg_cut_10", "recip_rank", "map", "recall_5", "success_5")


def problem(num_queries: int = 40) -> tuple[dict, dict]:
    random = np.random.default_rng(7)
    qrels, rankings = {}, {}
    for query in range(num_queries):
        ids = [f"d{i}" for i in random.permutation(30)]
        drawn = random.integers(0, 4, 30).tolist()
        grades = dict(zip(ids, drawn, strict=True))
        grades[ids[0]] = 1
        qrels[f"q{query}"] = grades
        rankings[f"q{query}"] = [str(doc) for doc in random.permutation(ids)[:20]]
    return qrels, rankings


def test_values_are_those_of_trec_eval() -> None:
    qrels, rankings = problem()
    run = {q: {d: -float(i) for i, d in enumerate(docs)} for q, docs in rankings.items()}
    expected = pytrec_eval.RelevanceEvaluator(qrels, set(NAMES)).evaluate(run)
    found = evaluate_rankings(parse_measures(MEASURES), qrels, rankings)
    for query, values in found.items():
        assert list(values) == MEASURES.split(",")
        for name, value in zip(NAMES, values.values(), strict=True):
            assert value == pytest.approx(expected[query][name], abs=1e-9)


def test_ndcg_and_reciprocal_rank_are_those_of_a_computation_by_hand() -> None:
    qrels, rankings = problem()
    found = evaluate_rankings(parse_measures("nDCG@10,RR@10"), qrels, rankings)
    for query, docs in rankings.items():
        grades = [qrels[query].get(doc, 0) for doc in docs]
        first = next((i for i, grade in enumerate(grades[:10], 1) if grade > 0), math.inf)
        assert found[query]["nDCG@10"] == pytest.approx(
            ndcg(grades, 10, list(qrels[query].values())), abs=1e-9
        )
        assert found[query]["RR@10"] == pytest.approx(1 / first, abs=1e-9)


def test_only_queries_with_judgements_and_a_ranking_have_values() -> None:
    measures = parse_measures("nDCG@10")
    found = evaluate_rankings(measures, {"a": {"d": 1}, "b": {"d": 1}}, {"a": ["d"], "c": ["d"]})
    assert found == {"a": {"nDCG@10": 1.0}}
    assert evaluate_rankings(measures, {}, {"a": ["d"]}) == {}


def test_an_empty_ranking_counts_nothing_and_a_repeated_document_once() -> None:
    found = evaluate_rankings(
        parse_measures(DEFAULT_MEASURES),
        {"a": {"d": 1}, "b": {"d": 1}},
        {"a": [], "b": ["d", "e", "d"]},
    )
    assert set(found["a"].values()) == {0.0}
    assert found["b"] == {"nDCG@10": 1.0, "RR@10": 1.0, "AP": 1.0, "R@100": 1.0}


def test_a_measure_may_have_arguments() -> None:
    assert list(parse_measures("P(rel=2)@5, nDCG(dcg='exp-log2')@10")) == [
        "P(rel=2)@5",
        "nDCG(dcg='exp-log2')@10",
    ]


@pytest.mark.parametrize("name", ["nDGC@10", "nDCG@", "nDCG@ten", "import os", "(", " , "])
def test_an_unknown_measure_is_refused(name: str) -> None:
    with pytest.raises(ConfigError, match="measure"):
        parse_measures(name)


def test_a_measure_without_a_provider_is_refused() -> None:
    with pytest.raises(ConfigError, match="provider that is not installed"):
        parse_measures("alpha_nDCG@10")
