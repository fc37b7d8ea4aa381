"""A plan is written once; a job that differs from it is refused, by name."""

import json
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest

from shardrank.config import InputColumns, OutputColumns
from shardrank.errors import OutputError, OutputMismatchError
from shardrank.store.commits import committed, require_still_there
from shardrank.store.filesystem import Storage
from shardrank.store.plan import (
    PLAN_NAME,
    Plan,
    fingerprint,
    load_plan,
    new_plan,
    open_plan,
    require_same_input,
    require_same_job,
)
from shardrank.store.units import output_name
from shardrank.types import Shard, Unit
from store.small_job import nested, propose

SHARDS = [
    Shard("a.parquet", 10, "1", 5),
    Shard("lang=en/b.parquet", 20, "2", None, (("lang", "en"),), 3),
]
UNITS = (
    Unit(0, SHARDS[0], 0, 2, 9),
    Unit(1, SHARDS[0], 2, 5, 7),
    Unit(2, SHARDS[1], 0, None, None),
)


def plan_of(units: tuple[Unit, ...] = UNITS, **fields: Any) -> Plan:
    score = {"model": "m", "files": {"model.onnx": "aa", "tokenizer.json": "bb"}}
    shape = {"top_k": None, "min_score": None}
    for name, value in fields.items():
        (score if name in score else shape)[name] = value
    return new_plan(score, shape, "nested", InputColumns(), OutputColumns(), units)


def test_a_plan_comes_back_as_it_was_written(storage: Storage) -> None:
    plan = open_plan(storage, plan_of())
    assert load_plan(storage) == plan == replace(plan_of(), created=plan.created)
    assert plan.shards == SHARDS


def test_a_folder_without_a_plan_has_none(storage: Storage) -> None:
    assert load_plan(storage) is None


def test_the_units_of_the_stored_plan_win(storage: Storage) -> None:
    stored = open_plan(storage, plan_of())
    other = (Unit(0, SHARDS[0], 0, 5, 16), Unit(1, SHARDS[1], 0, None, None))
    assert open_plan(storage, plan_of(other)) == stored


def test_of_many_jobs_at_once_one_writes_the_plan(storage: Storage) -> None:
    proposals = [plan_of(UNITS[:n]) for n in (1, 2, 3)] * 2

    def attempt(proposed: Plan) -> object:
        try:
            return open_plan(storage, proposed).units
        except OutputMismatchError:
            return None

    with ThreadPoolExecutor(6) as threads:
        found = set(threads.map(attempt, proposals)) - {None}
    stored = load_plan(storage)
    assert stored is not None
    assert found == {stored.units}


def test_the_order_of_fields_does_not_change_a_fingerprint() -> None:
    assert fingerprint({"a": 1, "b": 2}) == fingerprint({"b": 2, "a": 1})
    assert fingerprint({"a": 1}) != fingerprint({"a": 1.5})


def test_what_shapes_rows_changes_only_the_output_fingerprint() -> None:
    before, after = plan_of().fingerprints, plan_of(top_k=5).fingerprints
    assert before.score == after.score
    assert before.output != after.output


def test_every_differing_field_is_named() -> None:
    new = plan_of(model="other", top_k=5, files={"model.onnx": "cc", "tokenizer.json": "bb"})
    with pytest.raises(OutputMismatchError) as error:
        require_same_job(plan_of(), new.score_fields, new.output_fields)
    message = str(error.value)
    assert 'model was "m", now "other"' in message
    assert "top_k was not set, now 5" in message
    assert "files differ (model.onnx)" in message
    assert "min_score" not in message
    assert error.value.exit_code == 4


def test_a_long_value_is_shortened() -> None:
    with pytest.raises(OutputMismatchError, match=r"\(502 characters\)"):
        require_same_job(plan_of(), plan_of(model="x" * 500).score_fields, plan_of().output_fields)


def test_a_list_is_the_same_as_a_tuple() -> None:
    require_same_job(plan_of(model=[1, 2]), plan_of(model=(1, 2)).score_fields, {})


@pytest.mark.parametrize(
    ("shards", "named"),
    [
        ([SHARDS[0]], "gone: lang=en/b.parquet"),
        ([*SHARDS, Shard("c.parquet", 1, "", 1)], "new: c.parquet"),
        ([SHARDS[1], replace(SHARDS[0], etag="9")], "changed: a.parquet"),
        ([SHARDS[1], replace(SHARDS[0], size=11)], "changed: a.parquet"),
        ([*SHARDS, *(Shard(f"{n}", 1, "", 1) for n in range(9))], "new: 0, 1, 2, 3, 4 and 4 more"),
    ],
)
def test_another_input_is_refused_by_name(shards: list[Shard], named: str) -> None:
    with pytest.raises(OutputMismatchError, match=named):
        require_same_input(plan_of(), shards)


def test_the_same_input_in_another_order_is_the_same() -> None:
    require_same_input(plan_of(), [replace(SHARDS[1], num_rows=None), SHARDS[0]])


def test_a_plan_that_went_away_or_became_another_jobs_is_noticed(output: Storage) -> None:
    plan = open_plan(output, plan_of())
    require_still_there(output, plan)
    with pytest.raises(OutputMismatchError, match="model was"):
        require_still_there(output, replace(plan, score_fields={"model": "other"}))
    output.delete(PLAN_NAME)
    with pytest.raises(OutputError, match="the output was deleted while the job ran"):
        require_still_there(output, plan)


def test_a_folder_with_other_files_is_refused(storage: Storage) -> None:
    storage.create_exclusive("thesis.docx", b"")
    with pytest.raises(OutputError, match="not empty and holds no shardrank job"):
        open_plan(storage, plan_of())
    assert storage.read_bytes("thesis.docx") == b""


@pytest.mark.parametrize(
    "content",
    [b"", b"{", b"[]", b"{}", b'{"format_version": 1}', b'{"format_version": 1, "shards": [[1]]}'],
)
def test_a_damaged_plan_is_named(output: Storage, content: bytes) -> None:
    output.create_exclusive(PLAN_NAME, content)
    with pytest.raises(OutputError, match=r"job.json is damaged"):
        load_plan(output)


@pytest.mark.parametrize(
    ("keys", "value"),
    [
        (["layout"], 7),
        (["layout"], "other"),
        (["created"], None),
        (["score_fields"], []),
        (["input_columns", "query"], 7),
        (["shards"], {}),
        (["shards", 0, 0], 5),
        (["shards", 0, 0], "k=1/k=2/a.parquet"),
        (["shards", 0, 1], "10"),
        (["shards", 0, 2], 1),
        (["shards", 0, 3], "5"),
        (["shards", 0, 5, 0, 0], "x"),
        (["shards", 0, 5, 0, 0], 2.0),
        (["shards", 0, 5, 0, 0], None),
        (["shards", 0, 5, 0, 0], 9),
        (["shards", 0, 5, 0], [2]),
    ],
)
def test_a_plan_of_wrong_types_is_damaged(output: Storage, keys: list[Any], value: Any) -> None:
    open_plan(output, plan_of())
    tree = json.loads(output.read_bytes(PLAN_NAME))
    place = tree
    for key in keys[:-1]:
        place = place[key]
    place[keys[-1]] = value
    output.replace(PLAN_NAME, json.dumps(tree).encode())
    with pytest.raises(OutputError, match=r"job.json is damaged \([^\n]*$"):
        load_plan(output)


def test_an_edited_plan_is_damaged(output: Storage) -> None:
    open_plan(output, plan_of())
    tree = json.loads(output.read_bytes(PLAN_NAME))
    tree["output_fields"]["top_k"] = 3
    output.replace(PLAN_NAME, json.dumps(tree).encode())
    with pytest.raises(OutputError, match="fingerprints"):
        load_plan(output)


def test_a_plan_of_a_newer_version_is_named(output: Storage) -> None:
    output.create_exclusive(PLAN_NAME, b'{"format_version": 2, "version": "9.1"}')
    with pytest.raises(
        OutputError, match=r"has format 2, .* use the version that wrote it \(9.1\)"
    ):
        load_plan(output)


def test_a_store_that_ignores_the_condition_is_found_out(
    output: Storage, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(Storage, "create_exclusive", Storage.replace)
    open_plan(output, plan_of())
    assert not output.exclusive
    assert "let only one job at a time" in caplog.text


def test_a_plan_of_many_shards_is_small_and_quick(output: Storage) -> None:
    shards = [Shard(f"part-{n:06d}.parquet", 10**7, str(n), 1000) for n in range(20_000)]
    units = tuple(Unit(n, shard, 0, 1000, 1000) for n, shard in enumerate(shards))
    open_plan(output, plan_of(units))
    stat = output.stat(PLAN_NAME)
    assert stat is not None
    assert stat.size < 100 * len(shards)
    assert load_plan(output) is not None


def test_what_is_committed_is_found_by_name(storage: Storage) -> None:
    plan = open_plan(storage, plan_of())
    storage.create_exclusive(output_name(UNITS[1]), b"")
    storage.create_exclusive("_shardrank/failed/000002.json", b"{}")
    found = committed(storage, plan)
    assert (found.data, found.tombstones, found.done) == ({1}, {2}, {1, 2})


def test_a_data_file_wins_over_a_tombstone(output: Storage) -> None:
    plan = open_plan(output, plan_of())
    output.create_exclusive(output_name(UNITS[1]), b"")
    output.create_exclusive("_shardrank/failed/000001.json", b"{}")
    assert committed(output, plan).tombstones == frozenset()


def test_foreign_files_are_counted_and_warned_of(
    output: Storage, caplog: pytest.LogCaptureFixture
) -> None:
    plan = open_plan(output, plan_of())
    for name in ("copy.parquet", "_SUCCESS", ".x.tmp"):
        output.create_exclusive(name, b"")
    assert committed(output, plan).num_foreign == 1
    assert "1 file in" in caplog.text
    assert "will read it too" in caplog.text
    output.create_exclusive("copy2.parquet", b"")
    assert committed(output, plan).num_foreign == 2
    assert "2 files in" in caplog.text


def test_no_secret_and_no_path_of_this_machine_is_in_the_plan(tmp_path: Path) -> None:
    (tmp_path / "data").mkdir()
    pq.write_table(nested(["a"]), tmp_path / "data/a.parquet")
    output = Storage(str(tmp_path / "output"))
    open_plan(output, propose(str(tmp_path / "data"), output)[1])
    assert str(tmp_path).encode() not in output.read_bytes(PLAN_NAME)
