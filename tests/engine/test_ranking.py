from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from shardrank.engine.ranking import log_odds, rank_order, sigmoid

finite = st.floats(-100, 100, width=32)


def test_log_odds_are_yes_minus_no_in_float32() -> None:
    values = log_odds(np.array([[2.5, 1.0], [np.nan, 0.0]], np.float32))
    assert values.dtype == np.float32
    assert values[0] == 1.5
    assert np.isnan(values[1])


@given(st.floats(-300, 300))
def test_the_score_is_the_softmax_of_yes_and_no(value: float) -> None:
    expected = math.exp(value) / (1 + math.exp(value))
    assert sigmoid(np.array([value]))[0] == pytest.approx(expected, rel=1e-14)


def test_the_published_score_of_published_log_odds() -> None:
    values = np.array([-3.109297752380371, 7.120389938354492], np.float32)
    assert sigmoid(values) == pytest.approx([0.0427253568548665, 0.9991922016223372], rel=1e-7)


def test_the_score_neither_overflows_nor_warns() -> None:
    values = np.array([-1e30, -745.0, 0.0, 40.0, 1e30], np.float64)
    with np.errstate(over="raise", invalid="raise"):
        assert sigmoid(values).tolist() == [0.0, math.exp(-745.0), 0.5, 1.0, 1.0]


def test_ranks_count_from_one_within_each_row() -> None:
    values = np.array([1, 3, 2, 5, 4], np.float32)
    order, ranks = rank_order(values, np.array([7, 7, 7, 2, 2]))
    assert order.tolist() == [3, 4, 1, 2, 0]
    assert ranks.tolist() == [3, 1, 2, 1, 2]


def test_equal_values_keep_the_order_of_the_input() -> None:
    order, ranks = rank_order(np.array([0.0, 1.0, -0.0, 1.0], np.float32), np.zeros(4, np.int64))
    assert order.tolist() == [1, 3, 0, 2]
    assert ranks.tolist() == [3, 1, 4, 2]


def test_no_pairs_have_no_ranks() -> None:
    order, ranks = rank_order(np.zeros(0, np.float32), np.zeros(0, np.int64))
    assert (len(order), len(ranks)) == (0, 0)


@given(st.lists(st.tuples(st.integers(0, 3), finite), max_size=30))
def test_ranks_are_those_of_pythons_stable_sort(pairs: list[tuple[int, float]]) -> None:
    values = np.array([value for _, value in pairs], np.float32)
    rows = np.array([row for row, _ in pairs], np.int64)
    order, ranks = rank_order(values, rows)
    assert order.tolist() == sorted(range(len(pairs)), key=lambda i: (rows[i], -values[i]))
    for row in set(rows.tolist()):
        assert sorted(ranks[rows == row].tolist()) == list(range(1, (rows == row).sum() + 1))
