"""Hours from a speed."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from shardrank.job.forecast import Speed, forecast, makespan

SECONDS = st.lists(st.floats(0.01, 1000), min_size=1, max_size=40)


@given(SECONDS, st.integers(1, 12))
def test_the_last_actor_ends_between_the_least_possible_time_and_one_unit_more(
    seconds: list[float], num_actors: int
) -> None:
    least = max(sum(seconds) / num_actors, max(seconds))
    found = makespan(np.array(seconds), num_actors)
    assert least - 1e-6 <= found <= sum(seconds) / num_actors + max(seconds) + 1e-6


def test_many_units_are_bounded_rather_than_scheduled() -> None:
    found = makespan(np.full(200_000, 2.0), 100)
    assert found == pytest.approx(4000, rel=1e-3)


def test_nothing_takes_no_time() -> None:
    assert makespan(np.zeros(0), 3) == 0.0


def forecast_of(num_units: int, speed: Speed, **options: object) -> float:
    defaults = {"num_actors": 1, "threads": 4, "shares_cores": True}
    return forecast(np.full(num_units, 100.0), speed, **{**defaults, **options})  # type: ignore[arg-type]


def test_work_that_shares_the_cores_comes_on_top() -> None:
    speed = Speed(10.0, 1000.0, host_seconds_per_pair=0.04)
    assert forecast_of(6, speed) == pytest.approx(60 + 6)


def test_a_gpu_waits_only_for_a_host_that_is_slower() -> None:
    fast_host, slow_host = Speed(10.0, 1000.0, 0.04), Speed(10.0, 1000.0, 0.8)
    assert forecast_of(6, fast_host, shares_cores=False) == pytest.approx(60)
    assert forecast_of(6, slow_host, shares_cores=False) == pytest.approx(120)


def test_twice_the_actors_take_half_the_time() -> None:
    speed = Speed(10.0, 1000.0)
    assert forecast_of(64, speed, num_actors=8) == forecast_of(64, speed, num_actors=4) / 2
