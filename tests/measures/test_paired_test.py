import numpy as np
import pytest
from scipy import stats

from shardrank.measures.paired_test import paired_test


def test_the_p_value_is_that_of_scipy() -> None:
    random = np.random.default_rng(3)
    before, after = random.random(50), random.random(50)
    found = paired_test(before, after)
    assert found.p_value == pytest.approx(stats.ttest_rel(after, before).pvalue, rel=1e-12)
    assert found.difference == pytest.approx(np.mean(after - before))


def test_the_textbook_example_of_student() -> None:
    # Student's own data (1908): hours of sleep gained by ten patients with two drugs; p = 0.00283.
    first = [0.7, -1.6, -0.2, -1.2, -0.1, 3.4, 3.7, 0.8, 0.0, 2.0]
    second = [1.9, 0.8, 1.1, 0.1, -0.1, 4.4, 5.5, 1.6, 4.6, 3.4]
    found = paired_test(first, second)
    assert found.p_value == pytest.approx(0.002833, abs=1e-6)
    assert (found.wins, found.losses, found.ties) == (9, 0, 1)


@pytest.mark.parametrize("values", [[0.5], [0.5, 0.25]])
def test_equal_systems_have_no_p_value(values: list[float]) -> None:
    assert paired_test(values, values).p_value is None


def test_the_same_change_everywhere_is_no_chance() -> None:
    assert paired_test([0.0, 0.5], [0.25, 0.75]).p_value == 0.0
