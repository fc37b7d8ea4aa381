"""What a unit's attempts leave behind outlives the processes that made them."""

import json
from pathlib import Path

import pyarrow.parquet as pq
import pytest

from shardrank.errors import OutputFullError
from shardrank.store.attempts import (
    History,
    begin_attempt,
    note_harmless,
    note_poison,
    poison_name,
    read_histories,
)
from shardrank.store.filesystem import Storage
from shardrank.store.plan import open_plan
from shardrank.store.reader import read_unit
from shardrank.store.verify import verify
from shardrank.store.writer import Attempt, commit_unit
from shardrank.testing import FaultKind, Faults, failing_store
from shardrank.types import Unit
from store.small_job import SHARD, nested, outcome, propose

UNIT = Unit(3, SHARD, 10, 20, 10)


def test_a_unit_that_was_never_tried_has_an_empty_history(storage: Storage) -> None:
    assert read_histories(storage)[3] == History(0, 0, ())


def test_attempts_are_numbered_until_none_is_left(storage: Storage) -> None:
    assert [begin_attempt(storage, UNIT, 1, 3) for _ in range(4)] == [1, 2, 3, None]
    assert begin_attempt(storage, UNIT, 4, 6) == 4
    assert read_histories(storage)[3].num_attempts == 4


def test_a_history_tells_of_searches_and_of_rows(storage: Storage) -> None:
    for _ in range(2):
        note_harmless(storage, UNIT, 1)
        note_poison(storage, UNIT, 17)
        note_poison(storage, UNIT, 12)
    assert read_histories(storage)[3] == History(0, 1, (12, 17))
    note = json.loads(storage.read_bytes(poison_name(UNIT, 17)))
    assert (note["unit"], note["row"], note["shard"], note["code"]) == (
        3,
        17,
        "a.parquet",
        "worker_died",
    )


def test_a_name_that_is_no_attempt_is_passed_over(output: Storage) -> None:
    output.create_exclusive("_shardrank/attempts/.000003-9.json.tmp", b"")
    output.create_exclusive("_shardrank/poison/notes.txt", b"")
    assert read_histories(output) == {}


@pytest.mark.parametrize(
    ("history", "survived", "left"),
    [
        (History(), 0, 3),
        (History(2), 0, 1),
        (History(3), 0, 0),
        (History(3), 2, 2),
        (History(3, num_probes=1), 0, 3),
        (History(4, poison=(7,)), 0, 2),
    ],
)
def test_what_was_found_out_earns_new_attempts(history: History, survived: int, left: int) -> None:
    assert history.attempts_left(3, survived) == left


def test_a_deadly_row_is_accounted_for_only_if_it_was_found_to_be_one(
    output: Storage, tmp_path: Path
) -> None:
    pq.write_table(nested(["a", "b"], ["c"]), tmp_path / "a.parquet")
    source, proposed = propose(str(tmp_path / "a.parquet"), output)
    plan = open_plan(output, proposed)
    [unit] = plan.units
    unit_table = read_unit(source, unit, plan.layout, plan.input_columns, 1000)
    deadly = unit_table.reject_row(1, "worker_died", "the process dies")
    result = outcome(unit_table, extra=[deadly])
    commit_unit(output, unit, plan.fingerprints, result, Attempt("1", {}, {}))
    [problem] = verify(str(tmp_path / "a.parquet"), output).problems
    assert "row 1 is rejected as worker_died, and nothing in _shardrank/poison says so" in problem
    note_poison(output, unit, 1)
    result = verify(str(tmp_path / "a.parquet"), output)
    assert (result.ok, result.counts.rows_rejected) == (True, 1)


@pytest.mark.parametrize("kind", ["no_space", "read_only"])
def test_an_output_that_takes_no_more_can_be_gone_on_with(kind: FaultKind) -> None:
    with failing_store(Faults.scripted("create", kind)) as url:
        with pytest.raises(OutputFullError) as error:
            begin_attempt(Storage(url), UNIT, 1, 1)
        assert error.value.exit_code == 3
