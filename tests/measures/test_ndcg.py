import math

import pytest

from shardrank.measures.ndcg import ndcg


def test_a_perfect_order_is_one() -> None:
    assert ndcg([2, 1, 0, 0], cutoff=10) == 1.0


def test_the_textbook_example_of_graded_relevance() -> None:
    # Järvelin and Kekäläinen's worked example, with the discount log2(rank + 1).
    assert ndcg([3, 2, 3, 0, 1, 2], cutoff=6) == pytest.approx(0.9608, abs=1e-4)


def test_documents_below_the_cutoff_do_not_count() -> None:
    assert ndcg([0, 0, 1], cutoff=2) == 0.0


def test_relevant_documents_that_were_not_returned_count_against_it() -> None:
    assert ndcg([1], cutoff=10, judged=[1, 1]) == pytest.approx(1 / (1 + 1 / math.log2(3)))


def test_a_query_without_relevant_documents_has_no_value() -> None:
    assert math.isnan(ndcg([0, 0], cutoff=10))
