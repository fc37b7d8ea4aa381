"""Who is at work on an output: the lease, so that overlapping jobs do not do the work twice.

A lease is a row of generations, `_shardrank/lease/<n>.json`, each by exclusive create. Whoever made
the highest is the holder, and goes on making the next one for as long as it works. A newcomer that
sees the generation advance leaves; one that sees none for lease.seconds, on its own clock, takes
over: clocks of two machines are never compared. Of a holder on its own machine it knows at once.
The commits do not rest on this: two holders at once, which a store without exclusive create allows,
cost work and nothing else.

Old generations are deleted, all but the last few. A holder that slept so long that its next name is
free again finds, by the listing after its write, that it is no longer the highest.
"""

from __future__ import annotations

import json
import logging
from collections.abc import Callable
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from typing import Any, Literal

from shardrank.errors import OutputBusyError, OutputError
from shardrank.store.filesystem import Storage
from shardrank.store.holder import Holder, is_dead, is_running
from shardrank.store.plan import FOLDER

logger = logging.getLogger(__name__)

LEASE_FOLDER = f"{FOLDER}/lease"
NUM_KEPT = 8
"""Generations that are left for those who have just seen one in a listing."""
_NUM_LOOKS = 5

Decision = Literal["take", "wait", "leave"]


@dataclass(frozen=True, slots=True)
class Generation:
    """One file of a lease.

    seconds: the holder's lease.seconds. released: the holder has left; nobody holds the lease.
    written: for people; clocks of two machines are not compared.
    """

    number: int
    holder: Holder
    seconds: float
    released: bool
    written: str


@dataclass(frozen=True, slots=True)
class Sighting:
    """The generation that a newcomer saw first, and when, on its own clock."""

    number: int
    at: float


def decide(
    sighting: Sighting | None,
    latest: Generation | None,
    now: float,
    seconds: float,
    is_dead: Callable[[Holder], bool],
    is_at_work: Callable[[Generation], bool] = lambda generation: False,
) -> tuple[Decision, Sighting | None]:
    """What a newcomer does at one look, and what it keeps in mind for the next. Pure.

    sighting: of earlier looks. latest: the highest generation now. now, seconds: the newcomer's
    own clock and lease.seconds; a holder that renews less often is given its own time. is_dead,
        is_at_work: what is known of a holder on the newcomer's own machine.
    """
    if latest is None or latest.released or is_dead(latest.holder):
        return "take", sighting
    if is_at_work(latest) or (sighting is not None and latest.number > sighting.number):
        return "leave", sighting
    if sighting is None:
        return "wait", Sighting(latest.number, now)
    if now - sighting.at >= max(seconds, latest.seconds):
        return "take", sighting
    return "wait", sighting


class Lease:
    """The lease of one output, seen by one process. Not thread-safe: one thread at a time.

    number: the highest generation that is this process's own; 0 before it took the lease.
    """

    def __init__(self, storage: Storage, holder: Holder, seconds: float) -> None:
        self.storage = storage
        self.holder = holder
        self.seconds = seconds
        self.number = 0

    def take(self, number: int) -> bool:
        """Make a generation. False if somebody else made it, or a higher one.

        Raises OutputError if the store fails; the generation may be there then.
        """
        if not self._create(number, released=False):
            return False
        highest = max(_numbers(self.storage), default=0)
        if highest > number:
            return False
        self.number = number
        self._prune()
        return True

    def renew(self) -> bool:
        """Make the next generation. False if somebody else has taken over. Raises OutputError."""
        return self.take(self.number + 1)

    def release(self) -> None:
        """Say that nobody holds the lease. Does nothing if somebody else has taken over."""
        self._create(self.number + 1, released=True)

    def _create(self, number: int, *, released: bool) -> bool:
        generation = Generation(
            number=number,
            holder=self.holder,
            seconds=self.seconds,
            released=released,
            written=datetime.now(UTC).isoformat(timespec="seconds"),
        )
        try:
            self.storage.create_exclusive(_name(number), json.dumps(asdict(generation)).encode())
        except FileExistsError:
            # Perhaps our own, whose answer was lost.
            found = _read(self.storage, number)
            return found is not None and found.holder == self.holder
        return True

    def _prune(self) -> None:
        for number in _numbers(self.storage):
            if number <= self.number - NUM_KEPT:
                try:
                    self.storage.delete(_name(number))
                except OutputError as error:
                    logger.debug("an old generation of the lease stays: %s", error)
                    return


def latest_generation(storage: Storage) -> Generation | None:
    """The highest generation; None if no job ever held the lease.

    Raises OutputError if it is damaged, or if the store fails.
    """
    for _ in range(_NUM_LOOKS):
        number = max(_numbers(storage), default=None)
        if number is None:
            return None
        generation = _read(storage, number)
        if generation is not None:
            return generation
        # The holder advanced so far since the listing that this one was deleted.
    raise OutputError(
        f"the files of {storage.display(LEASE_FOLDER)} come and go faster than they can be read; "
        "run the same command again"
    )


def acquire(lease: Lease, *, clock: Callable[[], float], sleep: Callable[[float], None]) -> None:
    """Take the lease, at once or after watching the holder for as long as it takes.

    Raises OutputBusyError, naming the holder, if it is alive.
    """
    sighting: Sighting | None = None
    while True:
        latest = latest_generation(lease.storage)
        decision, sighting = decide(
            sighting,
            latest,
            clock(),
            lease.seconds,
            lambda holder: is_dead(holder, lease.holder),
            lambda generation: is_at_work(generation, lease.holder, datetime.now(UTC)),
        )
        if decision == "take" and lease.take(latest.number + 1 if latest else 1):
            return
        if decision != "wait":
            # Seen to advance, or quicker than this process: either way it is alive.
            raise busy(lease.storage)
        sleep(lease.seconds / 10)


def busy(storage: Storage) -> OutputBusyError:
    """The error that names the holder."""
    latest = latest_generation(storage)
    holder = f" ({latest.holder})" if latest else ""
    return OutputBusyError(
        f"another job is at work on {storage.display()}{holder}; let it finish or stop it, and "
        "then run the same command again if anything is left to do"
    )


def is_at_work(generation: Generation, observer: Holder, now: datetime) -> bool:
    """True if the holder's process runs on the observer's machine, and renewed in its own time.

    One that runs and does not renew is stuck: it is watched as those of other machines are.
    """
    if not is_running(generation.holder, observer):
        return False
    age = (now - datetime.fromisoformat(generation.written)).total_seconds()
    return -1 <= age < generation.seconds


def _name(number: int) -> str:
    return f"{LEASE_FOLDER}/{number:08d}.json"


def _numbers(storage: Storage) -> list[int]:
    names = (
        file.path.rpartition("/")[2] for file in storage.list_files(LEASE_FOLDER, recursive=False)
    )
    return [int(name[:-5]) for name in names if name.endswith(".json") and name[:-5].isdecimal()]


def _read(storage: Storage, number: int) -> Generation | None:
    """A generation, or None if it is not there."""
    name = _name(number)
    try:
        content = storage.read_bytes(name)
    except FileNotFoundError:
        return None
    try:
        fields: dict[str, Any] = json.loads(content)
        return Generation(**{**fields, "holder": Holder(**fields["holder"])})
    except (ValueError, TypeError, KeyError) as error:
        raise OutputError(
            f"{storage.display(name)} is no lease of shardrank ({error}); see that no job is at "
            "work, and delete it"
        ) from error
