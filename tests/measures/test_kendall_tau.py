from itertools import combinations
from math import isnan, nan, sqrt

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from shardrank.measures.kendall_tau import kendall_tau

scores = st.lists(st.integers(0, 5), min_size=2, max_size=12)


def naive(one: list[int], other: list[int]) -> float:
    """Tau-b by its definition: concordant minus discordant, over the untied of each."""
    concordant = discordant = untied_one = untied_other = 0
    for i, j in combinations(range(len(one)), 2):
        product = (one[i] - one[j]) * (other[i] - other[j])
        concordant += product > 0
        discordant += product < 0
        untied_one += one[i] != one[j]
        untied_other += other[i] != other[j]
    if not untied_one * untied_other:
        return nan
    return (concordant - discordant) / sqrt(untied_one * untied_other)


@given(st.data(), scores)
def test_it_is_the_definition(data: st.DataObject, one: list[int]) -> None:
    other = data.draw(st.lists(st.integers(0, 5), min_size=len(one), max_size=len(one)))
    assert kendall_tau(one, other) == pytest.approx(naive(one, other), nan_ok=True)


def test_the_textbook_case() -> None:
    assert kendall_tau([1, 2, 3, 4, 5], [3, 1, 2, 5, 4]) == pytest.approx(0.4)


def test_the_ends() -> None:
    order = np.arange(50.0)
    assert (kendall_tau(order, order**3), kendall_tau(order, -order)) == (1.0, -1.0)


@pytest.mark.parametrize("one", [[], [1.0], [2.0, 2.0], [1.0, nan]])
def test_where_there_is_no_order_there_is_no_number(one: list[float]) -> None:
    assert isnan(kendall_tau(one, list(range(len(one)))))
