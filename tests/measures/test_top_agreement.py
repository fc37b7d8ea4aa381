from math import isnan

from shardrank.measures.top_agreement import top_agreement


def test_half_of_the_queries_agree() -> None:
    assert top_agreement([[1, 2, 3], [3, 2]], [[0, 0, 9], [1, 2]]) == 0.5


def test_of_equal_scores_the_first_wins() -> None:
    assert top_agreement([[2, 2, 1]], [[5, 1, 1]]) == 1.0
    assert top_agreement([[2, 2, 1]], [[1, 5, 1]]) == 0.0


def test_queries_without_documents_do_not_count() -> None:
    assert top_agreement([[], [1, 2]], [[], [1, 2]]) == 1.0
    assert isnan(top_agreement([[]], [[]]))
