"""Which units are done: a set difference between the plan and one listing."""

from __future__ import annotations

import logging
from dataclasses import dataclass

from shardrank.errors import OutputError
from shardrank.store.filesystem import Storage
from shardrank.store.plan import FOLDER, PLAN_NAME, Plan, load_plan, require_same_job
from shardrank.store.units import output_name

logger = logging.getLogger(__name__)

FAILED_FOLDER = f"{FOLDER}/failed"
REJECTED_FOLDER = f"{FOLDER}/rejected"
SUCCESS_NAME = "_SUCCESS"


@dataclass(frozen=True, slots=True)
class Committed:
    """The numbers of the units that are done.

    data: those with a data file. tombstones: those given up; a data file wins over a tombstone,
        so that no unit is in both.
    num_foreign: files in the output folder that are no part of the job.
    """

    data: frozenset[int]
    tombstones: frozenset[int]
    num_foreign: int

    @property
    def done(self) -> frozenset[int]:
        """All that are not pending."""
        return self.data | self.tombstones


def committed(storage: Storage, plan: Plan) -> Committed:
    """List what an output folder holds of a plan. Files of another origin are warned of."""
    numbers = {output_name(unit): unit.number for unit in plan.units}
    data: set[int] = set()
    num_foreign = 0
    for file in storage.list_files(recursive=False):
        if file.path in numbers:
            data.add(numbers[file.path])
        elif not file.path.startswith((".", "_")):
            num_foreign += 1
    if num_foreign:
        foreign = (
            "1 file in %s is no part of this job; whoever reads the folder will read it too"
            if num_foreign == 1
            else f"{num_foreign} files in %s are no part of this job; whoever reads the folder "
            "will read them too"
        )
        logger.warning(foreign, storage.display())
    names = {tombstone_name(unit.number): unit.number for unit in plan.units}
    failed = storage.list_files(FAILED_FOLDER, recursive=False)
    tombstones = {names[file.path] for file in failed if file.path in names}
    return Committed(frozenset(data), frozenset(tombstones - data), num_foreign)


def tombstone_name(number: int) -> str:
    """Where it is written that a unit cannot be read."""
    return f"{FAILED_FOLDER}/{number:06d}.json"


def require_still_there(storage: Storage, plan: Plan) -> None:
    """Refuse to call an output done that was deleted, or taken over, while the job ran.

    Raises OutputError if its plan is gone, OutputMismatchError if it is another job's now.
    """
    stored = load_plan(storage)
    if stored is None:
        raise OutputError(
            f"{storage.display(PLAN_NAME)} is gone: the output was deleted while the job ran, and "
            "what is left of it is not to be trusted; delete the folder, and run the job again"
        )
    require_same_job(stored, plan.score_fields, plan.output_fields)
