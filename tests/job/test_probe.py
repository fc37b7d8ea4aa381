"""The rows that kill a worker are found with few deaths."""

import math

from hypothesis import given
from hypothesis import strategies as st

from shardrank.job.probe import deadly_rows


class Worker:
    """Dies of some rows. tried: the parts it was given; num_deaths: how often it died."""

    def __init__(self, deadly: set[int]) -> None:
        self.deadly = deadly
        self.tried: list[tuple[int, int]] = []
        self.num_deaths = 0

    def kills(self, start: int, stop: int) -> bool:
        self.tried.append((start, stop))
        dies = any(start <= row < stop for row in self.deadly)
        self.num_deaths += dies
        return dies


@given(st.integers(1, 200), st.data())
def test_exactly_the_deadly_rows_are_found_each_after_a_death_of_its_own(
    num_rows: int, data: st.DataObject
) -> None:
    deadly = data.draw(st.sets(st.integers(0, num_rows - 1), max_size=4))
    worker = Worker(deadly)
    assert deadly_rows(0, num_rows, worker.kills) == sorted(deadly)
    assert all((row, row + 1) in worker.tried for row in deadly)
    assert worker.num_deaths <= (math.ceil(math.log2(num_rows)) + 2) * max(1, len(deadly))


def test_rows_that_kill_only_together_are_not_blamed() -> None:
    assert deadly_rows(0, 8, lambda start, stop: stop - start > 3) == []
