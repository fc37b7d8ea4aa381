from hypothesis import given
from hypothesis import strategies as st

from shardrank.job.allowance import Allowance
from shardrank.store.attempts import History

UNIT = 7
counts = st.integers(min_value=0, max_value=5)


def test_a_unit_that_killed_its_worker_as_often_as_it_may_is_a_suspect() -> None:
    allowance = Allowance(3)
    assert not allowance.is_suspect(UNIT, History(num_attempts=2))
    assert allowance.is_suspect(UNIT, History(num_attempts=3))


def test_tries_that_ended_with_a_message_are_no_deaths() -> None:
    allowance = Allowance(3)
    allowance.note_failure(UNIT)
    assert not allowance.is_suspect(UNIT, History(num_attempts=3))
    assert allowance.is_suspect(UNIT, History(num_attempts=4))


def test_a_unit_is_searched_once_in_an_execution() -> None:
    allowance = Allowance(3)
    allowance.note_search(UNIT)
    assert not allowance.is_suspect(UNIT, History(num_attempts=99))
    assert allowance.is_suspect(UNIT + 1, History(num_attempts=99))


def test_a_unit_that_fails_with_a_message_is_tried_as_often_as_it_may_and_no_more() -> None:
    allowance = Allowance(2)
    allowance.note_failure(UNIT)
    assert not allowance.is_used_up(UNIT)
    allowance.note_failure(UNIT)
    assert allowance.is_used_up(UNIT)
    assert not allowance.is_used_up(UNIT + 1)


@given(num_deaths=counts, num_probes=counts, rows=st.sets(counts), max_attempts=st.integers(1, 5))
def test_every_search_and_every_row_found_earns_as_many_tries_again(
    num_deaths: int, num_probes: int, rows: set[int], max_attempts: int
) -> None:
    before = History(num_deaths, num_probes, tuple(sorted(rows)))
    after = History(num_deaths, num_probes + 1, tuple(sorted(rows)))
    allowance = Allowance(max_attempts)
    assert allowance.left(UNIT, after) == allowance.left(UNIT, before) + max_attempts
