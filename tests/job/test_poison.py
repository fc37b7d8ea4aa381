"""Rows that kill the process that scores them, for real: bounded tries, and only they are lost."""

import json
from pathlib import Path

import pyarrow.parquet as pq
import pytest

from shardrank.errors import IncompleteError
from shardrank.testing import fake_model, fake_tokenizer
from tables import read_output, row, write_nested

pytestmark = [pytest.mark.usefixtures("cluster"), pytest.mark.ray]

MARK = "~"
MARKED = json.loads(fake_tokenizer())["model"]["vocab"][MARK]


@pytest.fixture
def deadly_model(tmp_path: Path) -> str:
    return str(fake_model(tmp_path / "deadly", dies_on=MARKED))


def rejected_rows(output: Path) -> set[tuple[int, str]]:
    files = (output / "_shardrank/rejected").glob("*.parquet")
    return {(r["row"], r["code"]) for file in files for r in pq.read_table(file).to_pylist()}


def test_exactly_the_rows_that_kill_their_worker_are_lost_and_its_queue_is_not_blamed(
    folders, deadly_model: str
) -> None:
    rows = [row(number) for number in range(40)]
    rows[13]["candidates"][2]["text"] += MARK
    rows[19]["candidates"][1]["text"] += MARK
    write_nested(folders.input / "a.parquet", rows, row_group_size=8)
    settings = (f"model.path={deadly_model}", "units.pairs=32", "errors.max_attempts=2")
    result = folders.run(*settings)
    assert rejected_rows(folders.output) == {(13, "worker_died"), (19, "worker_died")}
    assert (result.counts.rows_rejected, result.counts.rows_out) == (2, 38)
    assert [r["query_id"] for r in read_output(folders.output)] == [
        f"q{number}" for number in range(40) if number not in (13, 19)
    ]
    poison = {path.name for path in (folders.output / "_shardrank/poison").iterdir()}
    assert poison == {"000001-13.json", "000002-19.json"}
    attempts = {path.stem for path in (folders.output / "_shardrank/attempts").iterdir()}
    assert attempts == {f"00000{unit}-1" for unit in range(5)} | {
        f"00000{unit}-{number}" for unit in (1, 2) for number in (2, 3)
    }
    assert folders.problems() == ()


def test_tries_are_counted_over_restarts_of_the_job(folders, deadly_model: str) -> None:
    """Another job's three deaths are on record: this one tries the rows apart at once."""
    rows = [row(number) for number in range(8)]
    rows[2]["query"] += MARK
    write_nested(folders.input / "a.parquet", rows)
    attempts = folders.output / "_shardrank/attempts"
    job = folders.open(f"model.path={deadly_model}", "units.pairs=100")
    attempts.mkdir()
    for number in (1, 2, 3):
        (attempts / f"000000-{number}.json").write_text("{}")
    assert len(job.plan.units) == 1
    result = folders.run(f"model.path={deadly_model}", "units.pairs=100")
    assert result.counts.rows_rejected == 1
    assert sorted(path.name for path in attempts.iterdir())[-1] == "000000-4.json"
    assert folders.problems() == ()


def test_an_attempt_that_cannot_be_noted_is_not_made(folders, deadly_model: str) -> None:
    write_nested(folders.input / "a.parquet", [row(number) for number in range(4)])
    folders.open(f"model.path={deadly_model}")
    (folders.output / "_shardrank/attempts").write_text("a file where a folder is needed")
    with pytest.raises(IncompleteError, match="a file where a folder is needed"):
        folders.run(f"model.path={deadly_model}", "errors.max_attempts=1")
    assert read_output(folders.output) == []
