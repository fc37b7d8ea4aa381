"""One job at a time: who may take the lease, who must wait, and who must leave."""

import os
import subprocess
import sys
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from datetime import UTC, datetime, timedelta

import pytest
from hypothesis import given
from hypothesis import strategies as st

from shardrank.errors import OutputBusyError, OutputError
from shardrank.store.filesystem import Storage
from shardrank.store.holder import Holder, is_dead, this_process
from shardrank.store.lease import (
    LEASE_FOLDER,
    NUM_KEPT,
    Generation,
    Lease,
    Sighting,
    acquire,
    decide,
    is_at_work,
    latest_generation,
)
from shardrank.testing import Faults, failing_store

ELSEWHERE = Holder("them", "another-host", "boot", "pids", 7, "1", "raysubmit_1")


def generation(number: int, *, released: bool = False, seconds: float = 30.0) -> Generation:
    return Generation(number, ELSEWHERE, seconds, released, "2026-01-01T00:00:00+00:00")


def alive(holder: Holder) -> bool:
    return False


def lease_of(storage: Storage, **holder: object) -> Lease:
    return Lease(storage, replace(this_process(), **holder), 30.0)


class Clock:
    """Time that passes only where somebody sleeps; meanwhile(now) is what others do then."""

    def __init__(self, meanwhile: Callable[[float], object] = lambda now: None) -> None:
        self.now = 100.0
        self._meanwhile = meanwhile

    def __call__(self) -> float:
        return self.now

    def sleep(self, seconds: float) -> None:
        self.now += seconds
        self._meanwhile(self.now)


def test_a_lease_that_nobody_holds_is_taken_at_once() -> None:
    assert decide(None, None, 0.0, 30.0, alive)[0] == "take"
    assert decide(None, generation(4, released=True), 0.0, 30.0, alive)[0] == "take"


def test_a_dead_holder_is_replaced_at_once() -> None:
    assert decide(None, generation(4), 0.0, 30.0, lambda holder: True)[0] == "take"


def test_a_holder_at_work_on_this_machine_is_left_alone_at_once() -> None:
    assert decide(None, generation(4), 0.0, 30.0, alive, lambda generation: True)[0] == "leave"


def test_only_a_process_of_this_machine_that_renews_is_known_to_be_at_work() -> None:
    me, now = this_process(), datetime.now(UTC)
    mine = replace(generation(4), holder=me, written=now.isoformat(timespec="seconds"))
    assert is_at_work(mine, me, now)
    assert not is_at_work(mine, me, now + timedelta(seconds=31))
    assert not is_at_work(replace(mine, holder=replace(me, started="1")), me, now)
    assert not is_at_work(replace(mine, holder=ELSEWHERE), me, now)


def test_a_holder_that_advances_is_left_alone() -> None:
    decision, sighting = decide(None, generation(4), 0.0, 30.0, alive)
    assert (decision, sighting) == ("wait", Sighting(4, 0.0))
    assert decide(sighting, generation(5), 1.0, 30.0, alive)[0] == "leave"


@given(
    st.floats(0.5, 100),
    st.floats(0.5, 100),
    st.lists(st.floats(0.01, 5), min_size=1, max_size=50),
    st.floats(-1e6, 1e6),
)
def test_a_silent_holder_is_replaced_after_its_time_and_not_before(
    own: float, theirs: float, steps: list[float], start: float
) -> None:
    now, sighting = start, None
    for step in [0.0, *steps]:
        now += step
        decision, sighting = decide(sighting, generation(4, seconds=theirs), now, own, alive)
        assert (decision == "take") == (now - start >= max(own, theirs))
        if decision == "take":
            return


def test_a_listing_that_is_behind_is_no_advance() -> None:
    assert decide(Sighting(4, 0.0), generation(3), 1.0, 30.0, alive)[0] == "wait"


def test_the_holder_renews_and_releases_and_another_follows(storage: Storage) -> None:
    first = lease_of(storage)
    acquire(first, clock=Clock(), sleep=Clock().sleep)
    assert first.renew()
    assert first.renew()
    first.release()
    latest = latest_generation(storage)
    assert latest is not None
    assert (latest.number, latest.released, latest.holder) == (4, True, first.holder)
    second = lease_of(storage)
    acquire(second, clock=Clock(), sleep=Clock().sleep)
    assert second.number == 5


def test_generations_do_not_grow_without_bound(storage: Storage) -> None:
    lease = lease_of(storage)
    assert lease.take(1)
    assert all(lease.renew() for _ in range(3 * NUM_KEPT))
    assert len(storage.list_files(LEASE_FOLDER)) == NUM_KEPT


def test_generations_that_cannot_be_deleted_stay_and_harm_nobody() -> None:
    faults = Faults()
    with failing_store(faults) as url:
        lease = lease_of(Storage(url))
        assert lease.take(1)
        faults.script("delete", *["read_only"] * 50)
        assert all(lease.renew() for _ in range(20))
        assert len(Storage(url).list_files(LEASE_FOLDER)) == 21


def test_a_newcomer_leaves_and_names_the_holder(output: Storage) -> None:
    holder = Lease(output, ELSEWHERE, 30.0)
    assert holder.take(1)
    clock = Clock(lambda now: holder.renew() if now > 109 else None)
    with pytest.raises(OutputBusyError, match="host another-host, process 7, Ray job raysubmit_1"):
        acquire(lease_of(output), clock=clock, sleep=clock.sleep)
    assert clock.now < 100 + 30


def test_a_newcomer_follows_a_holder_elsewhere_that_fell_silent(output: Storage) -> None:
    assert Lease(output, ELSEWHERE, 30.0).take(1)
    clock = Clock()
    newcomer = lease_of(output)
    acquire(newcomer, clock=clock, sleep=clock.sleep)
    assert newcomer.number == 2
    assert clock.now == pytest.approx(130.0, abs=3.1)


def test_a_holder_that_slept_finds_itself_superseded(output: Storage) -> None:
    sleeper = Lease(output, ELSEWHERE, 30.0)
    assert sleeper.take(1)
    other = lease_of(output)
    assert other.take(2)
    assert not sleeper.renew()


def test_a_holder_that_slept_past_the_pruning_finds_itself_superseded(output: Storage) -> None:
    sleeper = Lease(output, ELSEWHERE, 30.0)
    assert sleeper.take(1)
    other = lease_of(output)
    assert other.take(2)
    assert all(other.renew() for _ in range(2 * NUM_KEPT))
    assert not output.exists(f"{LEASE_FOLDER}/00000002.json")
    assert not sleeper.renew()
    assert other.renew()


def test_of_many_newcomers_one_makes_the_generation(storage: Storage) -> None:
    leases = [lease_of(storage, id=str(number)) for number in range(4)]
    with ThreadPoolExecutor(4) as threads:
        for number in (1, 2, 3):
            wins = list(threads.map(lambda lease, n=number: lease.take(n), leases))
            latest = latest_generation(storage)
            assert latest is not None
            assert wins.count(True) == 1
            assert latest.holder == leases[wins.index(True)].holder


def test_a_renewal_that_lost_its_answer_is_our_own() -> None:
    faults = Faults()
    with failing_store(faults) as url:
        lease = lease_of(Storage(url))
        assert lease.take(1)
        faults.script("create", "applied_then_lost")
        with pytest.raises(OutputError):
            lease.renew()
        assert lease.renew()


def test_a_lease_that_is_no_lease_is_named(output: Storage) -> None:
    output.create_exclusive(f"{LEASE_FOLDER}/00000001.json", b"{}")
    with pytest.raises(OutputError, match="is no lease of shardrank"):
        latest_generation(output)


def test_a_process_that_is_gone_is_dead_and_its_pid_may_be_anothers() -> None:
    me = this_process()
    assert not is_dead(me, me)
    child = subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE)
    there = replace(me, pid=child.pid, started=_started(child.pid))
    assert not is_dead(there, me)
    assert is_dead(replace(there, started="1"), me)
    child.kill()
    child.poll()
    os.waitid(os.P_PID, child.pid, os.WEXITED | os.WNOWAIT)  # it is a zombie now
    assert is_dead(there, me)
    child.communicate()
    assert is_dead(there, me)


@pytest.mark.parametrize("field", ["host", "boot_id", "pid_namespace"])
def test_a_process_of_another_machine_or_container_may_be_alive(field: str) -> None:
    me = this_process()
    assert not is_dead(replace(me, pid=1 << 22, **{field: "another"}), me)


def _started(pid: int) -> str:
    with open(f"/proc/{pid}/stat") as stat:
        return stat.read().rpartition(")")[2].split()[19]
