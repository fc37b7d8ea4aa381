"""A unit counts as given up only if its tombstone is its own, and its shard is as it says."""

import json
from pathlib import Path
from typing import Any

import pytest

from shardrank.errors import OutputError
from shardrank.store.commits import committed
from shardrank.store.filesystem import Storage
from shardrank.store.plan import load_plan
from shardrank.store.verify import verify
from shardrank.store.writer import read_tombstones
from store.small_job import do_job, nested, parquet

TOMBSTONE = "_shardrank/failed/000000.json"


@pytest.fixture
def job(tmp_path: Path) -> Storage:
    """The output of a broken shard, a.parquet, and of a sound one."""
    source, output = Storage(str(tmp_path / "data")), Storage(str(tmp_path / "output"))
    source.replace("a.parquet", b"broken")
    source.replace("b.parquet", parquet(nested(["a"])))
    do_job(source.url, output)
    return output


def problems(output: Storage) -> tuple[str, ...]:
    return verify(str(Path(output.url).parent / "data"), output).problems


def edit(output: Storage, **changes: Any) -> None:
    output.replace(
        TOMBSTONE, json.dumps(json.loads(output.read_bytes(TOMBSTONE)) | changes).encode()
    )


def test_a_true_tombstone_is_believed(job: Storage) -> None:
    assert problems(job) == ()


@pytest.mark.parametrize(
    "change",
    [
        {"unit": 1},
        {"shard": "b.parquet"},
        {"row_start": 1},
        {"score_fingerprint": "other"},
        {"output_fingerprint": "other"},
        {"code": None},
        {"message": ""},
    ],
    ids=lambda change: next(iter(change)),
)
def test_a_tampered_tombstone_fails(job: Storage, change: dict[str, Any]) -> None:
    edit(job, **change)
    assert any("unit 000000" in problem and "tombstone" in problem for problem in problems(job))


@pytest.mark.parametrize("content", [b"{}", b"[1]", b"no"])
def test_a_tombstone_that_says_nothing_fails(job: Storage, content: bytes) -> None:
    job.replace(TOMBSTONE, content)
    assert any("its tombstone gives no code" in problem for problem in problems(job))


def sound_shard_given_up(job: Storage, code: str) -> None:
    for file in job.list_files(recursive=False):
        if file.path.startswith("b-"):
            (Path(job.url) / file.path).unlink()
    (Path(job.url) / "_SUCCESS").unlink()
    told = json.loads(job.read_bytes(TOMBSTONE)) | {"unit": 1, "shard": "b.parquet", "row_stop": 1}
    told |= {"code": code}
    job.replace(TOMBSTONE.replace("000000", "000001"), json.dumps(told).encode())


def test_a_shard_that_was_given_up_though_it_can_be_read_fails(job: Storage) -> None:
    sound_shard_given_up(job, "not_parquet")
    [problem] = problems(job)
    assert "unit 000001 (shard b.parquet)" in problem
    assert "given up as not_parquet, although it can be read" in problem


def test_a_shard_that_lacks_a_column_is_given_up_though_it_can_be_read(job: Storage) -> None:
    sound_shard_given_up(job, "missing_column")
    assert problems(job) == ()


def test_a_tombstone_beside_a_data_file_does_not_count(job: Storage) -> None:
    told = json.loads(job.read_bytes(TOMBSTONE)) | {"unit": 1, "shard": "b.parquet"}
    job.replace(TOMBSTONE.replace("000000", "000001"), json.dumps(told).encode())
    plan = load_plan(job)
    assert plan is not None
    tombstones = read_tombstones(job, committed(job, plan).tombstones)
    assert [tombstone["shard"] for tombstone in tombstones] == ["a.parquet"]
    assert problems(job) == ()


@pytest.mark.parametrize("content", [b"{}", b"[1]", b'{"unit": 1}', b"no"])
def test_a_damaged_tombstone_is_named(job: Storage, content: bytes) -> None:
    job.replace(TOMBSTONE, content)
    with pytest.raises(OutputError, match="000000.json"):
        read_tombstones(job, [0])
