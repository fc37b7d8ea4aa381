"""SIGTERM to a real job: what is being scored is finished, in a bounded time, and nothing else."""

import os
import signal
import subprocess
import time
from pathlib import Path

import pytest

from commands import shardrank, start_shardrank
from tables import row, write_nested

pytestmark = pytest.mark.ray

NUM_UNITS = 2
NUM_PAIRS = 6_000
"""Of a unit, all different: seconds of scoring on any machine, while half a second is waited."""


@pytest.fixture(scope="module")
def shards(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("shards")
    rows = [row(number, NUM_PAIRS) for number in range(NUM_UNITS)]
    for candidate in (candidate for given in rows for candidate in given["candidates"]):
        candidate["text"] += f" {candidate['doc_id']}"
    write_nested(folder / "a.parquet", rows, row_group_size=1)
    return folder


class Started:
    """A job whose first unit is being scored."""

    def __init__(self, shards: Path, output: Path, *settings: str) -> None:
        self.output = output
        folders = ["--input", str(shards), "--output", str(output), "--model", "demo"]
        settings = (f"units.pairs={NUM_PAIRS}", *settings)
        self.command = ["rerank", *folders]
        self.command += [part for setting in settings for part in ("--set", setting)]
        self.process: subprocess.Popen[str] = start_shardrank(*self.command)
        deadline = time.monotonic() + 200
        while not self.names("_shardrank/attempts/*"):
            assert self.process.poll() is None, self.process.communicate()[0]
            assert time.monotonic() < deadline
            time.sleep(0.05)

    def names(self, pattern: str) -> list[str]:
        return sorted(path.name for path in self.output.glob(pattern))

    def terminate(self) -> None:
        os.kill(self.process.pid, signal.SIGTERM)

    def end(self) -> tuple[int, str]:
        printed, _ = self.process.communicate(timeout=120)
        return self.process.returncode, printed


@pytest.fixture
def output(tmp_path: Path) -> Path:
    return tmp_path / "out"


def test_the_units_that_are_being_scored_are_committed_first(shards: Path, output: Path) -> None:
    job = Started(shards, output, "cluster.drain_seconds=100")
    job.terminate()
    code, printed = job.end()
    assert code == 3, printed
    assert "the same command again goes on" in printed
    assert "were finished first: 1" in printed
    assert "Traceback" not in printed
    assert len(job.names("*.parquet")) == len(job.names("_shardrank/attempts/*")) == 1
    resumed = shardrank(*job.command)
    assert f"{NUM_UNITS - 1} of {NUM_UNITS} units by this run" in resumed.stdout, resumed.stderr
    assert shardrank("verify", shards, output).returncode == 0


def test_a_second_signal_ends_at_once(shards: Path, output: Path) -> None:
    job = Started(shards, output, "cluster.drain_seconds=600")
    job.terminate()
    time.sleep(0.2)
    assert job.process.poll() is None
    job.terminate()
    code, printed = job.end()
    assert code == 3, printed
    assert "the same command again goes on" in printed
    assert "finished" not in printed
    assert job.names("*.parquet") == []


def test_units_that_take_too_long_are_not_waited_for(shards: Path, output: Path) -> None:
    job = Started(shards, output, "cluster.drain_seconds=0.5")
    job.terminate()
    code, printed = job.end()
    assert code == 3, printed
    assert "not done in time (cluster.drain_seconds): 1" in printed
    assert job.names("*.parquet") == []
