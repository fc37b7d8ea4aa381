"""Two jobs on one output, as overlapping schedules start them."""

import os
import signal
import subprocess
import time
from pathlib import Path

import pytest

from commands import shardrank, start_shardrank
from tables import row, write_nested

pytestmark = pytest.mark.ray

NUM_UNITS = 30


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    rows = [row(number, 24) for number in range(NUM_UNITS)]
    write_nested(tmp_path / "in" / "a.parquet", rows, row_group_size=1)
    return tmp_path


def job(folder: Path, *settings: str) -> list[str]:
    folders = ["rerank", "--input", f"{folder}/in", "--output", f"{folder}/out", "--model", "demo"]
    settings = ("units.pairs=24", "lease.seconds=3", *settings)
    return [*folders, *(part for setting in settings for part in ("--set", setting))]


def wait_for_units(folder: Path, number: int, process: subprocess.Popen[str]) -> None:
    deadline = time.monotonic() + 200
    while len(list((folder / "out").glob("*.parquet"))) < number:
        assert process.poll() is None, process.communicate()[0]
        assert time.monotonic() < deadline
        time.sleep(0.05)


def verified(folder: Path) -> bool:
    return shardrank("verify", folder / "in", folder / "out").returncode == 0


def test_of_two_drivers_started_at_once_one_works_and_one_names_it(folder: Path) -> None:
    drivers = [start_shardrank(*job(folder)) for _ in range(2)]
    printed = [driver.communicate(timeout=300)[0] for driver in drivers]
    codes = [driver.returncode for driver in drivers]
    assert sorted(codes) == [0, 5], printed
    winner, loser = codes.index(0), codes.index(5)
    assert f"process {drivers[winner].pid}" in printed[loser]
    assert "Traceback" not in printed[loser]
    assert verified(folder)


def test_of_two_different_jobs_started_at_once_one_wins(folder: Path) -> None:
    drivers = [start_shardrank(*job(folder, f"prompt.instruction={word}")) for word in "ab"]
    printed = [driver.communicate(timeout=300)[0] for driver in drivers]
    assert sorted(driver.returncode for driver in drivers) == [0, 4], printed
    assert verified(folder)


def test_a_killed_holder_is_followed_at_once(folder: Path) -> None:
    settings = ("lease.seconds=600",)
    first = start_shardrank(*job(folder, *settings))
    wait_for_units(folder, 2, first)
    status = shardrank("status", folder / "out").stdout
    assert f"process {first.pid}; renewed" in status
    os.kill(first.pid, signal.SIGKILL)
    first.wait()
    assert f"process {first.pid}, which has died" in shardrank("status", folder / "out").stdout
    done = shardrank(*job(folder, *settings), seconds=300)
    assert done.returncode == 0, done.stderr
    assert verified(folder)


def test_a_sleeping_holder_is_followed_and_stops_when_it_wakes(folder: Path) -> None:
    first = start_shardrank(*job(folder))
    wait_for_units(folder, 2, first)
    os.kill(first.pid, signal.SIGSTOP)
    try:
        second = start_shardrank(*job(folder))
        deadline = time.monotonic() + 200
        while f'"pid": {second.pid}' not in newest_lease(folder):
            assert second.poll() is None, second.communicate()[0]
            assert time.monotonic() < deadline
            time.sleep(0.1)
    finally:
        os.kill(first.pid, signal.SIGCONT)
    printed, _ = first.communicate(timeout=200)
    assert first.returncode == 5, printed
    assert f"process {second.pid}" in printed
    printed, _ = second.communicate(timeout=300)
    assert second.returncode == 0, printed
    assert verified(folder)


def newest_lease(folder: Path) -> str:
    files = sorted((folder / "out/_shardrank/lease").glob("*.json"))
    return files[-1].read_text() if files else ""
