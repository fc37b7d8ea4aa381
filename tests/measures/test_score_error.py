from math import inf, isnan, nan

import numpy as np
import pytest

from shardrank.measures.score_error import score_error


def test_it_is_computed_by_hand() -> None:
    found = score_error([1.0, 2.0, 6.0], [1.0, 2.0, 3.0])
    assert (found.max, found.rms) == (3.0, pytest.approx(3**0.5))
    assert found.spread == pytest.approx((2 / 3) ** 0.5)
    assert found.relative == pytest.approx(3**0.5 / (2 / 3) ** 0.5)


def test_no_error_is_none_whatever_the_spread() -> None:
    assert score_error([1.0, 1.0], [1.0, 1.0]).relative == 0.0
    assert score_error([1.0, 2.0], [1.0, 1.0]).relative == inf


def test_float32_is_subtracted_in_float64() -> None:
    big = np.array([1e8], np.float32)
    assert score_error(big, [1e8 + 0.25]).max == 0.25


@pytest.mark.parametrize("scores", [[], [nan, 1.0]])
def test_no_number_is_no_number(scores: list[float]) -> None:
    found = score_error(scores, np.ones(len(scores)))
    assert isnan(found.max)
    assert isnan(found.rms)
