"""Two processes that begin the same output at the same instant, round after round."""

import multiprocessing
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest

from shardrank.errors import ShardrankError
from shardrank.job.holding import holding
from shardrank.store.commits import committed
from shardrank.store.filesystem import Storage
from shardrank.store.plan import load_plan, open_plan
from shardrank.store.verify import verify
from store.small_job import commit, finish, nested, propose

NUM_ROUNDS = 20
UNIT_SECONDS = 0.4
"""Four units take longer than a holder's next sign of life."""


def drive(folder: str, output: str, model: str) -> int:
    """The job without Ray and without a model. Returns its exit code."""
    storage = Storage(output)
    try:
        source, proposed = propose(folder, storage, unit_pairs=1, model=model)
        plan = open_plan(storage, proposed)
        with holding(storage, 3.0) as hold:
            for unit in plan.units:
                if unit.number not in committed(storage, plan).done:
                    hold.require()
                    commit(source, storage, plan, unit)
                    time.sleep(UNIT_SECONDS)
            finish(storage, plan)
    except ShardrankError as error:
        return error.exit_code
    return 0


def drive_rounds(folder: str, outputs: list[str], model: str, barrier: Any, codes: Any) -> None:
    found = []
    for output in outputs:
        barrier.wait()
        found.append(drive(folder, output, model))
    codes.put((model, found))


def race(root: Path, models: Sequence[str]) -> list[list[int]]:
    """Of each round the exit codes of both, in the order of `models`."""
    pq.write_table(nested(["a"], ["b"], ["c"], ["d"]), root / "a.parquet", row_group_size=1)
    outputs = [str(root / f"out-{number}") for number in range(NUM_ROUNDS)]
    context = multiprocessing.get_context("spawn")
    barrier, codes = context.Barrier(2), context.Queue()
    arguments = [(str(root / "a.parquet"), outputs, model, barrier, codes) for model in models]
    drivers = [context.Process(target=drive_rounds, args=each) for each in arguments]
    for driver in drivers:
        driver.start()
    found = sorted(codes.get(timeout=300) for _ in drivers)
    for driver in drivers:
        driver.join()
    for output in outputs:
        result = verify(str(root / "a.parquet"), Storage(output))
        assert (result.ok, result.num_missing) == (True, 0)
    return [list(pair) for pair in zip(*(codes for _, codes in found), strict=True)]


@pytest.mark.slow
def test_of_two_drivers_of_one_job_one_works_and_the_other_leaves(tmp_path: Path) -> None:
    rounds = race(tmp_path, ["same", "same"])
    assert [sorted(codes) for codes in rounds] == [[0, 5]] * NUM_ROUNDS


@pytest.mark.slow
def test_of_two_drivers_of_different_jobs_exactly_one_owns_the_output(tmp_path: Path) -> None:
    rounds = race(tmp_path, ["one", "other"])
    assert [sorted(codes) for codes in rounds] == [[0, 4]] * NUM_ROUNDS
    for number, codes in enumerate(rounds):
        plan = load_plan(Storage(str(tmp_path / f"out-{number}")))
        assert plan is not None
        assert plan.score_fields["model"] == ["one", "other"][codes.index(0)]
