"""A job holds its lease for as long as it works, and stops when it has lost it."""

import threading
import time

import pytest

from shardrank.errors import OutputBusyError
from shardrank.job.holding import holding
from shardrank.job.stopping import stops_on_sigterm
from shardrank.store.filesystem import Storage
from shardrank.store.holder import this_process
from shardrank.store.lease import Lease, latest_generation
from shardrank.testing import Faults, failing_store

SECONDS = 0.5


@pytest.fixture
def output(tmp_path) -> Storage:
    return Storage(str(tmp_path))


def take_over(output: Storage) -> None:
    """As a newcomer does that saw no generation for too long."""
    for _ in range(50):
        latest = latest_generation(output)
        other = Lease(output, this_process("raysubmit_other"), SECONDS)
        if latest is not None and other.take(latest.number + 1):
            return
    pytest.fail("the holder was quicker each time")


def wait_for_generation(output: Storage, number: int) -> None:
    deadline = time.monotonic() + 60
    while (latest := latest_generation(output)) is None or latest.number < number:
        assert time.monotonic() < deadline
        time.sleep(0.05)


def test_the_lease_advances_while_the_work_goes_on_and_is_released_after(output: Storage) -> None:
    with holding(output, SECONDS) as hold:
        wait_for_generation(output, 3)
        hold.require()
    latest = latest_generation(output)
    assert latest is not None
    assert latest.released


def test_a_job_that_fails_releases_its_lease(output: Storage) -> None:
    with pytest.raises(KeyError), holding(output, SECONDS):
        raise KeyError
    latest = latest_generation(output)
    assert latest is not None
    assert latest.released


def test_a_second_job_is_told_who_is_at_work(output: Storage) -> None:
    with (
        holding(output, SECONDS),
        pytest.raises(OutputBusyError, match="process"),
        holding(output, 30 * SECONDS),
    ):
        pytest.fail("two at once")


def test_work_that_waits_is_stopped_when_another_has_taken_over(output: Storage) -> None:
    def work() -> None:
        take_over(output)
        threading.Event().wait(60)

    with (
        pytest.raises(OutputBusyError, match="raysubmit_other"),
        stops_on_sigterm(),
        holding(output, SECONDS),
    ):
        work()
    latest = latest_generation(output)
    assert latest is not None
    assert (latest.holder.ray_job_id, latest.released) == ("raysubmit_other", False)


def test_work_that_no_signal_can_reach_asks_by_itself(output: Storage) -> None:
    with holding(output, SECONDS) as hold:
        take_over(output)
        deadline = time.monotonic() + 60
        while hold.superseded is None:
            assert time.monotonic() < deadline
            time.sleep(0.05)
        with pytest.raises(OutputBusyError, match="raysubmit_other"):
            hold.require()


def test_a_store_that_fails_for_a_while_does_not_end_the_work() -> None:
    faults = Faults()
    with failing_store(faults) as url, holding(Storage(url), SECONDS) as hold:
        faults.script("create", "error_500", "timeout", "applied_then_lost")
        wait_for_generation(Storage(url), 4)
        hold.require()
