"""A job that dies at any of its calls to the store, once or twice, ends as one that never died."""

import io
import itertools
from pathlib import Path
from uuid import uuid4

import pyarrow.parquet as pq
import pytest

from shardrank.store.attempts import begin_attempt
from shardrank.store.commits import committed
from shardrank.store.filesystem import Storage
from shardrank.store.plan import open_plan
from shardrank.store.verify import verify
from shardrank.testing import DEATHS, FaultKind, Faults, ProcessDied, failing_store
from store.small_job import commit, finish, nested, propose

STAGES = ("job.json", "attempts/", "rejected/", "failed/", ".parquet", "_SUCCESS")
"""What the files are called that a job creates, from its begin to its end."""


@pytest.fixture(scope="module")
def shards(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("crashes")
    pq.write_table(nested(["a", None, "b"], ["c", "d"]), folder / "a.parquet")
    (folder / "b.parquet").write_bytes(b"no Parquet at all")
    return folder


def execute(shards: Path, url: str) -> None:
    """What one execution does with the store, in this process."""
    output = Storage(url)
    source, proposed = propose(str(shards), output)
    plan = open_plan(output, proposed)
    done = committed(output, plan).done
    for unit in plan.units:
        if unit.number not in done:
            assert begin_attempt(output, unit, 1, 9)
            commit(source, output, plan, unit, uuid4().hex)
    finish(output, plan)


def scores(url: str) -> dict[str, bytes]:
    """The bytes of the scores in each data file."""
    storage, found = Storage(url), {}
    for file in storage.list_files(recursive=False):
        if file.path.endswith(".parquet"):
            table = pq.read_table(io.BytesIO(storage.read_bytes(file.path)))
            candidates = table["candidates"].combine_chunks().flatten()
            found[file.path] = candidates.field("log_odds").to_numpy().tobytes()
    return found


@pytest.fixture(scope="module")
def undisturbed(shards: Path) -> dict[str, bytes]:
    with failing_store(Faults()) as url:
        execute(shards, url)
        return scores(url)


@pytest.mark.parametrize("num_deaths", [1, 2])
@pytest.mark.parametrize("kind", DEATHS)
def test_death_at_any_call_changes_no_byte_of_a_score(
    shards: Path, undisturbed: dict[str, bytes], kind: FaultKind, num_deaths: int
) -> None:
    left: set[str] = set()
    for place in itertools.count():
        faults = Faults()
        with failing_store(faults) as url:
            died = []
            for _ in range(num_deaths):
                faults.script("any", *[None] * place, kind)
                try:
                    execute(shards, url)
                except ProcessDied:
                    died.append(place)
            faults.stop()
            left |= {file.path for file in Storage(url).list_files()}
            url.land()
            execute(shards, url)
            assert scores(url) == undisturbed
            assert verify(str(shards), Storage(url)).ok
        if not died:
            break
    assert all(any(stage in path for path in left) for stage in STAGES)
