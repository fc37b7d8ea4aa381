"""An output that was not done in one go, as other people's libraries read it."""

import json
from pathlib import Path

import pyarrow as pa
import pyarrow.dataset as ds
import pyarrow.parquet as pq
import pytest

from shardrank.store.filesystem import Storage
from shardrank.store.plan import open_plan
from shardrank.store.reader import read_unit
from shardrank.store.verify import verify
from shardrank.store.writer import Attempt, commit_unit
from shardrank.testing import Faults, ProcessDied, failing_store
from store.small_job import do_job, nested, outcome, propose

TEXTS = [["a", "b"], ["c"], ["d", "e", "f"]]


@pytest.fixture
def output(tmp_path: Path) -> Storage:
    """A unit of two attempts, of which the first rejected a row and died; and a broken shard."""
    (tmp_path / "in").mkdir()
    pq.write_table(nested(*TEXTS), tmp_path / "in" / "a.parquet")
    (tmp_path / "in" / "b.parquet").write_bytes(b"no Parquet at all")
    faults = Faults()
    with failing_store(faults, str(tmp_path / "out")) as url:
        storage = Storage(url)
        source, proposed = propose(str(tmp_path / "in"), storage, unit_pairs=100)
        plan = open_plan(storage, proposed)
        unit = plan.units[0]
        rows = read_unit(source, unit, plan.layout, plan.input_columns, 1000)
        unlucky = outcome(rows, extra=[rows.reject_row(1, "worker_died", "it died")])
        assert unlucky.counts.rows_rejected == 1
        faults.script("create", None, "dies_before")
        with pytest.raises(ProcessDied):
            commit_unit(storage, unit, plan.fingerprints, unlucky, Attempt("unlucky", {}, {}))
    output = Storage(str(tmp_path / "out"))
    assert [file.path for file in output.list_files("_shardrank/rejected")] != []
    do_job(str(tmp_path / "in"), output, unit_pairs=100)
    return output


def test_a_row_rejected_by_one_attempt_and_scored_by_the_next_is_counted_once(
    output: Storage, tmp_path: Path
) -> None:
    result = verify(str(tmp_path / "in"), output)
    assert result.ok, result.problems
    counts = result.counts
    assert (counts.rows_in, counts.rows_out, counts.rows_rejected) == (3, 3, 0)
    assert (counts.pairs_in, counts.pairs_out, counts.pairs_rejected) == (6, 6, 0)
    success = json.loads(output.read_bytes("_SUCCESS"))
    assert success["counts"]["rows_rejected"] == 0
    assert success["rejected_files"] == []


def test_an_unreadable_shard_is_a_tombstone_and_not_pending(
    output: Storage, tmp_path: Path
) -> None:
    assert json.loads(output.read_bytes("_SUCCESS"))["failed_units"] == [1]
    assert verify(str(tmp_path / "in"), output).num_missing == 0


def found(rows: list[dict[str, object]]) -> list[str]:
    return [str(row["query_id"]) for row in sorted(rows, key=lambda row: str(row["query_id"]))]


def test_pyarrow_reads_the_folder(output: Storage) -> None:
    table: pa.Table = ds.dataset(output.url, format="parquet").to_table()
    assert found(table.to_pylist()) == ["q0", "q1", "q2"]


def test_polars_reads_the_folder(output: Storage) -> None:
    polars = pytest.importorskip("polars")
    assert found(polars.read_parquet(f"{output.url}/*.parquet").to_dicts()) == ["q0", "q1", "q2"]


@pytest.mark.extra
def test_duckdb_reads_the_folder(output: Storage) -> None:
    duckdb = pytest.importorskip("duckdb")
    relation = duckdb.sql(f"select query_id from '{output.url}/*.parquet' order by query_id")
    assert relation.fetchall() == [("q0",), ("q1",), ("q2",)]
