"""What a job lacks, it says: room on the disk, a cluster that can do it, a store that can lock."""

import json
import os
import shutil
import subprocess
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import ClassVar

import fsspec
import pytest
from fsspec.implementations.memory import MemoryFileSystem

from commands import shardrank
from shardrank.config import load_config
from shardrank.errors import IncompleteError, OutputError
from shardrank.job.estimate import PlanOptions, estimate
from shardrank.job.estimate_text import render_estimate
from shardrank.job.opening import open_job
from shardrank.testing import fake_model
from tables import read_output, row, write_nested


class WeakFileSystem(MemoryFileSystem):
    """A store that is not known to create files exclusively."""

    protocol = "weak"
    store: ClassVar[dict[str, object]] = {}
    pseudo_dirs: ClassVar[list[str]] = [""]


def test_a_store_without_exclusive_create_is_said_so_by_plan_and_by_the_job(tmp_path: Path) -> None:
    fsspec.register_implementation("weak", WeakFileSystem, clobber=True)
    write_nested(tmp_path / "a.parquet", [row(number) for number in range(3)])
    paths = (f"input.path={tmp_path}", "output.path=weak://out")
    config = load_config(None, [*paths, f"model.path={fake_model(tmp_path / 'model')}"])
    assert "do not run two jobs on it at once" in render_estimate(
        estimate(config, PlanOptions(pairs_per_second=100.0))
    )
    assert "weak://out cannot create files exclusively" in open_job(config).warnings[0]


@pytest.mark.ray
@pytest.mark.usefixtures("cluster")
def test_a_job_that_cannot_move_ends_after_a_while_and_reports_why(folders) -> None:
    write_nested(folders.input / "a.parquet", [row(1)])
    with pytest.raises(IncompleteError, match="no unit moved for 5 seconds"):
        folders.run("cluster.cpus_per_actor=64", "cluster.no_progress_seconds=5")
    report = json.loads((folders.output / "_shardrank/report.json").read_text())
    assert report["error"] == "IncompleteError"
    assert "cluster.no_progress_seconds" in report["message"]


@pytest.mark.ray
@pytest.mark.usefixtures("cluster")
def test_an_output_that_is_deleted_in_mid_run_is_not_called_done(folders) -> None:
    rows = [row(number) for number in range(8)]
    write_nested(folders.input / "a.parquet", rows, row_group_size=1)

    def delete() -> None:
        while not list(folders.output.glob("*.parquet")):
            time.sleep(0.05)
        (folders.output / "_shardrank/job.json").unlink()

    deleting = threading.Thread(target=delete, daemon=True)
    deleting.start()
    with pytest.raises(OutputError, match="the output was deleted while the job ran"):
        folders.run("units.pairs=4")
    assert not (folders.output / "_SUCCESS").exists()


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    disk = tmp_path / "disk"
    disk.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "size=256k", "tmpfs", str(disk)]
    if shutil.which("mount") is None or subprocess.run(mount, capture_output=True).returncode:
        pytest.skip("this user may not mount a small disk")
    yield disk
    subprocess.run(["umount", str(disk)], check=True)


@pytest.mark.ray
def test_a_full_disk_ends_the_job_resumable_and_with_room_it_goes_on(
    small_disk: Path, tmp_path: Path
) -> None:
    # Random, since the writer compresses.
    rows = [{**row(number), "query_id": os.urandom(15_000).hex()} for number in range(20)]
    write_nested(tmp_path / "in" / "a.parquet", rows, row_group_size=1)
    command = ["rerank", "--input", str(tmp_path / "in"), "--output", str(small_disk / "out")]
    command += ["--model", "demo", "--set", "units.pairs=4"]
    full = shardrank(*command)
    assert full.returncode == 3, full.stderr
    assert "no space is left; free some and run the same command again" in full.stderr
    assert "Traceback" not in full.stderr
    subprocess.run(["mount", "-o", "remount,size=20m", str(small_disk)], check=True)
    done = shardrank(*command)
    assert done.returncode == 0, done.stderr
    assert len(read_output(small_disk / "out")) == 20
    assert shardrank("verify", tmp_path / "in", small_disk / "out").returncode == 0
