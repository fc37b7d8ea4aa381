"""Reuse under faults: a job that is really killed, and two that build one index at once."""

from __future__ import annotations

import os
import random
import signal
import time
from pathlib import Path

import pytest

from commands import shardrank, start_shardrank
from shardrank.store.results import Results
from tables import read_output, row, write_nested

pytestmark = pytest.mark.ray

NUM_UNITS = 30


def rows(mark: str = "") -> list[dict]:
    """A query a unit, half of its documents marked."""
    found = [row(number, 24) for number in range(NUM_UNITS)]
    for number, of_query in enumerate(found):
        for place, candidate in enumerate(of_query["candidates"]):
            changed = mark if place % 2 else ""
            candidate["text"] = f"{candidate['text']} {number} {place} {changed}"
    return found


def job(folder: Path, source: str, output: str, *settings: str) -> list[str]:
    paths = ["rerank", "--input", f"{folder}/{source}", "--output", f"{folder}/{output}"]
    settings = ("units.pairs=24", "output.pair_hash=true", *settings)
    return [*paths, "--model", "demo", *(p for each in settings for p in ("--set", each))]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A first day's output, and a second day's input."""
    folder = tmp_path_factory.mktemp("reuse")
    write_nested(folder / "in1" / "a.parquet", rows(), row_group_size=1)
    write_nested(folder / "in2" / "a.parquet", rows("changed"), row_group_size=1)
    done = shardrank(*job(folder, "in1", "out1"))
    assert done.returncode == 0, done.stderr
    return folder


def num_reused(output: Path) -> int:
    return sum(f["counts"]["pairs_reused"] for f in Results.open(str(output)).footers)


def test_two_jobs_that_make_the_index_at_once_both_have_it(folder: Path) -> None:
    reuse = f"scoring.reuse={folder}/out1"
    jobs = [start_shardrank(*job(folder, "in1", f"twin{n}", reuse)) for n in range(2)]
    printed = [process.communicate(timeout=300)[0] for process in jobs]
    assert [process.returncode for process in jobs] == [0, 0], printed
    for number in range(2):
        assert num_reused(folder / f"twin{number}") == NUM_UNITS * 24
        assert read_output(folder / f"twin{number}") == read_output(folder / "out1")


def test_a_job_without_a_new_pair_needs_no_cluster(folder: Path) -> None:
    nobody = f"scoring.reuse={folder}/out1", "cluster.address=127.0.0.1:9"
    done = shardrank(*job(folder, "in1", "known", *nobody))
    assert done.returncode == 0, done.stderr
    assert read_output(folder / "known") == read_output(folder / "out1")


def test_a_killed_job_goes_on_and_ends_as_one_that_reused_nothing(folder: Path) -> None:
    output = folder / "killed"
    wanted = random.Random(os.getpid()).randint(1, NUM_UNITS // 3)
    print(f"killed after {wanted} units")
    command = job(folder, "in2", "killed", f"scoring.reuse={folder}/out1")
    process = start_shardrank(*command)
    deadline = time.monotonic() + 240
    while len(list(output.glob("*.parquet"))) < wanted:
        assert process.poll() is None, process.communicate()[0]
        assert time.monotonic() < deadline
        time.sleep(0.02)
    os.kill(process.pid, signal.SIGKILL)
    process.wait(timeout=60)
    time.sleep(3)  # a worker may finish a write after its driver has died
    assert len(list(output.glob("*.parquet"))) < NUM_UNITS
    resumed = shardrank(*command)
    assert resumed.returncode == 0, resumed.stderr
    verified = shardrank("verify", folder / "in2", output)
    assert verified.returncode == 0, verified.stdout
    assert num_reused(output) == NUM_UNITS * 12
    undisturbed = shardrank(*job(folder, "in2", "undisturbed"))
    assert undisturbed.returncode == 0, undisturbed.stderr
    assert read_output(output) == read_output(folder / "undisturbed")
