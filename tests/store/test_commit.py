"""A unit is committed once, whole, and whoever comes later sees whose it is."""

import hashlib
import io
import json
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from shardrank.errors import IncompleteError, OutputError, OutputMismatchError
from shardrank.schema import REJECTED_SCHEMA
from shardrank.store.filesystem import Storage
from shardrank.store.output import Output
from shardrank.store.plan import Fingerprints, open_plan
from shardrank.store.units import output_name
from shardrank.store.writer import (
    Attempt,
    commit_tombstone,
    commit_unit,
    read_footer,
    read_footers_of,
    read_tombstones,
    write_success,
)
from shardrank.types import Receipt, Unit
from store.small_job import SHARD, commit, do_job, nested, outcome, propose, unit_of

UNIT = Unit(0, SHARD, 0, 2, 3)
NAME = output_name(UNIT)
OWN = Fingerprints("score", "output")
ENGINE = {"onnxruntime": "1.32.0", "provider": "CPU", "instruction_set": "AVX512"}


def result(*texts: list[str | None]) -> Output:
    return outcome(unit_of(nested(*(texts or (["a", None], ["b"])))))


def attempt(storage: Storage, name: str = "one", fingerprints: Fingerprints = OWN) -> Receipt:
    about = Attempt(name, ENGINE, {"read": 0.5, "score": 1.5})
    return commit_unit(storage, UNIT, fingerprints, result(), about)


def test_a_data_file_holds_the_rows_and_tells_of_itself(storage: Storage) -> None:
    receipt = attempt(storage)
    assert pq.read_table(io.BytesIO(storage.read_bytes(NAME))).equals(result().table)
    footer = read_footer(storage, NAME)
    assert footer["unit"] == 0
    assert (footer["score_fingerprint"], footer["output_fingerprint"]) == ("score", "output")
    assert footer["attempt"] == "one"
    assert footer["engine"] == ENGINE
    assert footer["counts"] == result().counts.as_dict() == receipt.counts.as_dict()
    assert footer["rejected"]["count"] == 1
    assert (receipt.outcome, receipt.seconds_read, receipt.seconds_score) == ("committed", 0.5, 1.5)


def test_rejected_rows_are_in_the_file_that_the_footer_names(storage: Storage) -> None:
    attempt(storage)
    rejected = read_footer(storage, NAME)["rejected"]
    data = storage.read_bytes(rejected["file"])
    assert rejected["file"] == "_shardrank/rejected/000000-one.parquet"
    assert rejected["sha256"] == hashlib.sha256(data).hexdigest()
    table = pq.read_table(io.BytesIO(data))
    assert table.schema == REJECTED_SCHEMA
    [row] = table.to_pylist()
    assert (row["unit"], row["shard"], row["row"], row["position"]) == ("000000", "a.parquet", 0, 1)
    assert (row["code"], row["query_id"], row["doc_id"]) == ("null_text", "q0", "q0d1")


def test_without_rejected_rows_there_is_no_such_file(output: Storage) -> None:
    commit_unit(output, UNIT, OWN, result(["a"]), Attempt("one", {}, {}))
    assert read_footer(output, NAME)["rejected"] is None
    assert [file.path for file in output.list_files()] == [NAME]


def test_somebody_elses_commit_of_the_same_unit_is_a_success(storage: Storage) -> None:
    first, second = attempt(storage, "one"), attempt(storage, "two")
    assert (first.outcome, second.outcome) == ("committed", "already_committed")
    assert second.counts == first.counts
    assert read_footer(storage, NAME)["attempt"] == "one"


def test_a_put_whose_answer_was_lost_is_our_own_commit(storage: Storage) -> None:
    attempt(storage, "one")
    assert attempt(storage, "one").outcome == "committed"


def test_of_many_attempts_at_once_one_commits(storage: Storage) -> None:
    with ThreadPoolExecutor(6) as threads:
        receipts = list(threads.map(lambda name: attempt(storage, f"try-{name}"), range(6)))
    assert sorted(r.outcome for r in receipts) == ["already_committed"] * 5 + ["committed"]
    winner = next(i for i, r in enumerate(receipts) if r.outcome == "committed")
    assert read_footer(storage, NAME)["attempt"] == f"try-{winner}"


@pytest.mark.parametrize("field", ["score", "output"])
def test_a_data_file_of_another_job_is_refused(output: Storage, field: str) -> None:
    attempt(output)
    with pytest.raises(OutputMismatchError, match=f"{field}_fingerprint differ"):
        attempt(output, "two", replace(OWN, **{field: "other"}))


@pytest.mark.parametrize("content", [b"", b"PAR1", b"not Parquet"])
def test_a_file_that_is_not_ours_is_not_taken_for_a_commit(output: Storage, content: bytes) -> None:
    output.create_exclusive(NAME, content)
    with pytest.raises(OutputError, match="is not a data file of shardrank"):
        attempt(output)


def test_parquet_without_our_footer_is_not_taken_for_a_commit(output: Storage) -> None:
    sink = io.BytesIO()
    pq.write_table(pa.table({"a": [1]}), sink)
    output.create_exclusive(NAME, sink.getvalue())
    with pytest.raises(OutputError, match="is not a data file of shardrank"):
        attempt(output)


def test_death_between_rejected_rows_and_data_file_leaves_no_trace(
    output: Storage, monkeypatch: pytest.MonkeyPatch
) -> None:
    def die(*_: object) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as context:
        context.setattr("shardrank.store.writer._encode", die)
        with pytest.raises(KeyboardInterrupt):
            attempt(output, "one")
    attempt(output, "two")
    assert read_footer(output, NAME)["rejected"]["file"].endswith("000000-two.parquet")
    assert len(output.list_files("_shardrank/rejected")) == 2


def test_a_tombstone_closes_a_unit_that_cannot_be_read(storage: Storage) -> None:
    receipt = commit_tombstone(storage, UNIT, OWN, "not_parquet", "shard a.parquet is broken")
    again = commit_tombstone(storage, UNIT, OWN, "not_parquet", "shard a.parquet is broken")
    assert receipt == again
    assert (receipt.outcome, receipt.code) == ("tombstone", "not_parquet")
    [tombstone] = read_tombstones(storage, [0])
    assert (tombstone["unit"], tombstone["num_rows"], tombstone["code"]) == (0, 2, "not_parquet")


def test_a_unit_that_is_done_gets_no_tombstone(output: Storage) -> None:
    attempt(output)
    assert commit_tombstone(output, UNIT, OWN, "c", "m").outcome == "already_committed"
    assert output.list_files("_shardrank/failed") == []


def test_a_tombstone_of_another_job_is_refused(output: Storage) -> None:
    commit_tombstone(output, UNIT, OWN, "c", "m")
    with pytest.raises(OutputMismatchError):
        commit_tombstone(output, UNIT, Fingerprints("other", "output"), "c", "m")


def test_success_says_what_is_there(storage: Storage, tmp_path: Path) -> None:
    pq.write_table(nested(["a", "b", None], ["c"], row_group=[1, 2]), tmp_path / "a.parquet")
    plan = do_job(str(tmp_path / "a.parquet"), storage, unit_pairs=2, top_k=1)
    success = json.loads(storage.read_bytes("_SUCCESS"))
    assert success["units"] == len(plan.units) == 2
    assert success["files"] == [output_name(unit) for unit in plan.units]
    assert success["counts"]["pairs_in"] == 4
    assert success["counts"]["pairs_out"] == 2
    assert len(success["rejected_files"]) == 1


def test_success_is_written_again_with_the_same_content(storage: Storage, tmp_path: Path) -> None:
    pq.write_table(nested(["a"]), tmp_path / "a.parquet")
    do_job(str(tmp_path / "a.parquet"), storage)
    before = storage.read_bytes("_SUCCESS")
    do_job(str(tmp_path / "a.parquet"), storage)
    assert storage.read_bytes("_SUCCESS") == before


def test_success_that_says_something_else_is_not_overwritten(
    output: Storage, tmp_path: Path
) -> None:
    pq.write_table(nested(["a"]), tmp_path / "a.parquet")
    output.create_exclusive(".keep", b"")
    plan = do_job(str(tmp_path / "a.parquet"), output)
    output.replace("_SUCCESS", b"{}")
    with pytest.raises(OutputError, match="does not fit"):
        write_success(output, plan, read_footers_of(output, plan, [0]))


def test_success_is_not_written_while_units_are_missing(output: Storage, tmp_path: Path) -> None:
    pq.write_table(nested(["a"], ["b"]), tmp_path / "a.parquet")
    source, proposed = propose(str(tmp_path / "a.parquet"), output, unit_pairs=1)
    plan = open_plan(output, proposed)
    assert commit(source, output, plan, plan.units[0]) == "committed"
    with pytest.raises(IncompleteError, match="1 of 2 units"):
        write_success(output, plan, read_footers_of(output, plan, [0]))
    assert not output.exists("_SUCCESS")


def test_a_broken_shard_costs_that_shard(output: Storage, tmp_path: Path) -> None:
    (tmp_path / "data").mkdir()
    (tmp_path / "data/a.parquet").write_bytes(b"broken")
    pq.write_table(nested(["a"]), tmp_path / "data/b.parquet")
    do_job(str(tmp_path / "data"), output)
    success = json.loads(output.read_bytes("_SUCCESS"))
    assert success["failed_units"] == [0]
    assert success["counts"]["rows_out"] == 1


def test_a_job_without_any_row_is_complete(output: Storage, tmp_path: Path) -> None:
    pq.write_table(nested(), tmp_path / "a.parquet")
    plan = do_job(str(tmp_path / "a.parquet"), output)
    table = pq.read_table(str(tmp_path / "output" / output_name(plan.units[0])))
    assert table.num_rows == 0
    assert "num_cut" in table.column_names


def test_a_job_that_goes_on_gives_the_same_rows(tmp_path: Path) -> None:
    pq.write_table(nested(*[["a", "b", "c"]] * 20), tmp_path / "a.parquet", row_group_size=3)
    tables = []
    for name, num_before in (("once", 0), ("twice", 3)):
        output = Storage(str(tmp_path / name))
        source, proposed = propose(str(tmp_path / "a.parquet"), output)
        plan = open_plan(output, proposed)
        for unit in plan.units[:num_before]:
            commit(source, output, plan, unit, "earlier")
        do_job(str(tmp_path / "a.parquet"), output, unit_pairs=100 if num_before else 4)
        names = [output_name(unit) for unit in plan.units]
        tables.append(pa.concat_tables(pq.read_table(str(tmp_path / name / n)) for n in names))
    assert tables[0].equals(tables[1])


def test_scores_are_written_bit_for_bit(output: Storage) -> None:
    unit_table = unit_of(nested(["a", "b", "c"]))
    done = outcome(unit_table)
    commit_unit(output, UNIT, OWN, done, Attempt("one", {}, {}))
    table = pq.read_table(io.BytesIO(output.read_bytes(NAME)))
    before, after = (
        np.array([c["log_odds"] for c in t["candidates"][0].as_py()]) for t in (done.table, table)
    )
    assert before.tobytes() == after.tobytes()
