"""SIGTERM in mid-pass: what is being scored is committed, nothing new begins, then it is over."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import ray
from ray.exceptions import RayError
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

from shardrank.errors import IncompleteError
from shardrank.job.stopping import TERMINATED, sigterm_is_noted, stop_main_thread

STOPPED = "stopped"
"""The code of a unit that was not begun, since the job is to end."""
_ANSWER_SECONDS = 20.0
_POLL_SECONDS = 0.1


class Brake:
    """What a worker asks before it begins a unit."""

    def __init__(self) -> None:
        self._begun: set[int] = set()
        self._is_on = False

    def is_on(self) -> bool:
        """Whether nothing new is to begin."""
        return self._is_on

    def may_begin(self, unit: int) -> bool:
        """Whether a unit may be scored; it then counts as begun."""
        if not self._is_on:
            self._begun.add(unit)
        return not self._is_on

    def put_on(self) -> set[int]:
        """Let nothing new begin; the numbers of the units that have."""
        self._is_on = True
        return set(self._begun)


class RemoteBrake:
    """The same, asked by any process. Where the actor does not answer, the work goes on."""

    def __init__(self) -> None:
        # Beside the driver, so that the one is not lost without the other.
        here = NodeAffinitySchedulingStrategy(ray.get_runtime_context().get_node_id(), soft=True)
        self._actor: Any = ray.remote(num_cpus=0, scheduling_strategy=here)(Brake).remote()

    def is_on(self) -> bool:
        """As Brake's."""
        return bool(_ask(self._actor.is_on.remote(), default=False))

    def may_begin(self, unit: int) -> bool:
        """As Brake's."""
        return bool(_ask(self._actor.may_begin.remote(unit), default=True))

    def put_on(self) -> set[int]:
        """As Brake's."""
        begun: set[int] = _ask(self._actor.put_on.remote(), default=set())
        return begun


class Drain:
    """One pass that SIGTERM lets come to an orderly end.

    brake: for the workers of the pass.
    """

    def __init__(self, noted: threading.Event, seconds: float) -> None:
        self.brake = RemoteBrake()
        self._noted, self._seconds = noted, seconds
        self._answered: set[int] = set()
        self._at_work: set[int] = set()
        self._is_over = threading.Event()
        self._thread = threading.Thread(target=self._wait, name="drain", daemon=True)
        self._thread.start()

    def answer(self, unit: int) -> None:
        """Take note that a unit's receipt came."""
        self._answered.add(unit)

    def close(self) -> None:
        """The pass is over."""
        self._is_over.set()
        self._thread.join(_POLL_SECONDS * 2)  # it may wait for a brake that died

    def require(self) -> None:
        """Raise IncompleteError if SIGTERM came."""
        if self._noted.is_set():
            raise self._ending()

    def _wait(self) -> None:
        while not self._noted.is_set():
            if self._is_over.wait(_POLL_SECONDS):
                return
        deadline = time.monotonic() + self._seconds
        self._at_work = self.brake.put_on() - self._answered
        while self._num_left and time.monotonic() < deadline:
            if self._is_over.wait(_POLL_SECONDS):
                return
        stop_main_thread(self._ending())

    @property
    def _num_left(self) -> int:
        return len(self._at_work - self._answered)

    def _ending(self) -> IncompleteError:
        num_done = len(self._at_work) - self._num_left
        found = f"{TERMINATED}; the units that were being scored were finished first: {num_done}"
        if self._num_left:
            found += f", and not done in time (cluster.drain_seconds): {self._num_left}"
        return IncompleteError(found)


@contextmanager
def draining(seconds: float) -> Iterator[Drain]:
    """For one pass: the first SIGTERM puts the brake on, and the pass ends within `seconds`.

    It ends by IncompleteError, as a second SIGTERM ends it at once.
    """
    with sigterm_is_noted() as noted:
        drain = Drain(noted, seconds)
        try:
            yield drain
        finally:
            drain.close()


def _ask(reference: Any, default: Any) -> Any:
    """The brake's answer. Without one the work goes on as if there were no brake."""
    try:
        return ray.get(reference, timeout=_ANSWER_SECONDS)
    except RayError:
        return default
