"""What is known of units that failed before, kept outside the processes that may die of them.

`_shardrank/attempts/<unit>-<n>.json` says, before a unit is scored, that its n-th attempt began: a
unit that kills its worker leaves it behind. `_shardrank/attempts/<unit>-probe-<n>.json` says that
the unit's rows were tried apart and none of them killed the worker.
`_shardrank/poison/<unit>-<row>.json` names a row that did; it is rejected, and never scored again.
All are written once and never changed.
"""

from __future__ import annotations

import json
import re
from collections import defaultdict
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

from shardrank.store.filesystem import Storage
from shardrank.store.plan import FOLDER
from shardrank.types import Unit

ATTEMPTS_FOLDER = f"{FOLDER}/attempts"
POISON_FOLDER = f"{FOLDER}/poison"
WORKER_DIED = "worker_died"
_ATTEMPT = re.compile(r"(?P<unit>\d+)-(?P<probe>probe-)?(?P<number>\d+)\.json")
_POISON = re.compile(r"(?P<unit>\d+)-(?P<row>\d+)\.json")


@dataclass(frozen=True, slots=True)
class History:
    """What a unit's attempts have left.

    num_attempts: attempts that began. num_probes: searches for a deadly row that found none.
    poison: rows of the shard that are not scored again, in order.
    """

    num_attempts: int = 0
    num_probes: int = 0
    poison: tuple[int, ...] = ()

    def attempts_left(self, max_attempts: int, num_survived: int = 0) -> int:
        """How often the unit may still be tried before its rows are tried apart.

        num_survived: of the attempts, those that are known not to have killed their worker. Every
        search that found nothing, and every row that was found, earn the unit a new allowance.
        """
        allowed = max_attempts * (1 + self.num_probes + len(self.poison))
        return allowed - (self.num_attempts - num_survived)


def read_histories(storage: Storage) -> Mapping[int, History]:
    """The histories of all units, by number; an empty one for a unit that has none."""
    attempts: dict[int, int] = defaultdict(int)
    probes: dict[int, int] = defaultdict(int)
    poison: dict[int, set[int]] = defaultdict(set)
    for file in storage.list_files(ATTEMPTS_FOLDER, recursive=False):
        found = _ATTEMPT.fullmatch(file.path.rpartition("/")[2])
        if found is not None:
            numbers = probes if found["probe"] else attempts
            unit, number = int(found["unit"]), int(found["number"])
            numbers[unit] = max(numbers[unit], number)
    for file in storage.list_files(POISON_FOLDER, recursive=False):
        found = _POISON.fullmatch(file.path.rpartition("/")[2])
        if found is not None:
            poison[int(found["unit"])].add(int(found["row"]))
    histories: dict[int, History] = defaultdict(History)
    for unit in attempts.keys() | probes.keys() | poison.keys():
        histories[unit] = History(attempts[unit], probes[unit], tuple(sorted(poison[unit])))
    return histories


def begin_attempt(storage: Storage, unit: Unit, first: int, last: int) -> int | None:
    """Note that an attempt at a unit begins; its number, or None if all up to `last` are taken."""
    for number in range(first, last + 1):
        try:
            _note(storage, f"{ATTEMPTS_FOLDER}/{unit.id}-{number}.json", unit)
        except FileExistsError:
            continue
        return number
    return None


def note_harmless(storage: Storage, unit: Unit, number: int) -> None:
    """Note that the unit's rows were tried apart for the number-th time, and none was deadly."""
    _note_once(storage, f"{ATTEMPTS_FOLDER}/{unit.id}-probe-{number}.json", unit)


def note_poison(storage: Storage, unit: Unit, row: int) -> None:
    """Note a row, counted in the shard, that kills the process that scores it."""
    _note_once(storage, poison_name(unit, row), unit, row=row, code=WORKER_DIED)


def poison_name(unit: Unit, row: int) -> str:
    """Where it is written that a row of a unit is not scored."""
    return f"{POISON_FOLDER}/{unit.id}-{row}.json"


def _note_once(storage: Storage, name: str, unit: Unit, **more: Any) -> None:
    try:
        _note(storage, name, unit, **more)
    except FileExistsError:
        return  # it says the same, whoever wrote it


def _note(storage: Storage, name: str, unit: Unit, **more: Any) -> None:
    note = {
        "unit": unit.number,
        "shard": unit.shard.path,
        "written": datetime.now(UTC).isoformat(timespec="seconds"),
        **more,
    }
    storage.create_exclusive(name, json.dumps(note).encode())
