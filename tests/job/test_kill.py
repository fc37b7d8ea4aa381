"""A driver that is really killed, at a moment that nobody chose."""

import os
import random
import signal
import time
from pathlib import Path

import pyarrow.parquet as pq
import pytest

from commands import shardrank, start_shardrank
from tables import row, write_nested

pytestmark = pytest.mark.ray

NUM_UNITS = 40


def data_files(output: Path) -> list[Path]:
    return sorted(output.glob("*.parquet"))


def job(folder: Path, output: Path) -> list[str]:
    return [
        "rerank",
        *("--input", str(folder / "in"), "--output", str(output), "--model", "demo"),
        *("--set", "units.pairs=24"),
    ]


def contents(output: Path) -> dict[str, list[dict[str, object]]]:
    return {path.name: pq.read_table(path).to_pylist() for path in data_files(output)}


def kill_in_mid_run(folder: Path, output: Path, number: signal.Signals) -> int:
    """Start a job, and signal its driver once some units are committed. Returns its exit code."""
    wanted = random.Random(os.getpid()).randint(2, NUM_UNITS // 2)
    print(f"signal {number.name} after {wanted} units")
    process = start_shardrank(*job(folder, output))
    deadline = time.monotonic() + 240
    while len(data_files(output)) < wanted:
        assert process.poll() is None, process.communicate()[0]
        assert time.monotonic() < deadline
        time.sleep(0.02)
    os.kill(process.pid, number)
    code = process.wait(timeout=120)
    time.sleep(3)  # a worker may finish a write after its driver has died
    assert len(data_files(output)) < NUM_UNITS, "the signal came too late to prove anything"
    return code


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("kill")
    rows = [row(number, 24) for number in range(NUM_UNITS)]
    write_nested(folder / "in" / "a.parquet", rows[: NUM_UNITS // 2], row_group_size=1)
    write_nested(folder / "in" / "b.parquet", rows[NUM_UNITS // 2 :], row_group_size=4)
    undisturbed = shardrank(*job(folder, folder / "undisturbed"))
    assert undisturbed.returncode == 0, undisturbed.stderr
    assert len(data_files(folder / "undisturbed")) == NUM_UNITS
    return folder


@pytest.mark.parametrize(("number", "code"), [(signal.SIGKILL, -9), (signal.SIGTERM, 3)])
def test_a_killed_job_goes_on_and_ends_as_an_undisturbed_one(
    folder: Path, number: signal.Signals, code: int
) -> None:
    output = folder / number.name
    assert kill_in_mid_run(folder, output, number) == code
    assert not (output / "_SUCCESS").exists()
    before = {path: path.stat().st_mtime_ns for path in data_files(output)}
    resumed = shardrank(*job(folder, output))
    assert resumed.returncode == 0, resumed.stderr
    assert f"{NUM_UNITS - len(before)} of {NUM_UNITS} units by this run" in resumed.stdout
    after = {path: path.stat().st_mtime_ns for path in data_files(output)}
    assert {path: after[path] for path in before} == before
    assert contents(output) == contents(folder / "undisturbed")
    verified = shardrank("verify", folder / "in", output)
    assert verified.returncode == 0, verified.stdout
