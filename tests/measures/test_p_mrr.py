import json
from pathlib import Path
from typing import Any

import pytest

from shardrank.measures.p_mrr import p_mrr

GOLDEN = Path(__file__).parent / "p_mrr_golden.json"
DOCS = ["a", "b", "c", "d"]


def test_a_ranking_that_does_not_change_is_zero() -> None:
    assert p_mrr({"q-og": DOCS, "q-changed": DOCS}, {"q": ["b"]}) == {"q": 0.0}


def test_a_document_that_falls_counts_for_and_one_that_rises_against() -> None:
    down = p_mrr({"q-og": DOCS, "q-changed": ["b", "c", "d", "a"]}, {"q": ["a"]})
    up = p_mrr({"q-og": ["b", "c", "d", "a"], "q-changed": DOCS}, {"q": ["a"]})
    assert down == {"q": 1 - 1 / 4}
    assert up == {"q": 1 / 4 - 1}


def test_the_mean_is_over_the_changed_documents_of_a_query() -> None:
    found = p_mrr({"q-og": DOCS, "q-changed": ["b", "a", "c", "d"]}, {"q": ["a", "b"]})
    assert found["q"] == pytest.approx(((1 - 1 / 2) + (1 / 2 - 1)) / 2)


def test_a_missing_document_stands_behind_the_last() -> None:
    assert p_mrr({"q-og": DOCS, "q-changed": ["b"]}, {"q": ["a"]}) == {"q": 1 - 1 / 2}


def test_queries_without_both_rankings_are_left_out() -> None:
    assert p_mrr({"q-og": DOCS}, {"q": ["a"], "r": []}) == {}


@pytest.mark.parametrize("case", json.loads(GOLDEN.read_text())["cases"])
def test_the_values_are_those_of_mteb(case: dict[str, Any]) -> None:
    found = p_mrr(case["rankings"], case["changed"])
    assert found == pytest.approx(case["per_query"], abs=1e-12)
    assert sum(found.values()) / len(found) == pytest.approx(case["mean"], abs=1e-12)
