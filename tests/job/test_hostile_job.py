"""The whole command on shards that were made to break readers, among good ones."""

import json
import shutil
import subprocess
import time
from contextlib import suppress
from pathlib import Path

import pytest

from commands import shardrank, start_shardrank
from shardrank.errors import EXIT_REJECTED
from tables import read_output, row, write_nested

HOSTILE = sorted(
    (Path(__file__).parents[2].parent / "shared/data/hostile-parquet").glob("*.parquet")
)
MAX_BYTES = 1 << 30
"""Of any process: a worker with the model takes a third of it without any shard."""

pytestmark = [
    pytest.mark.ray,
    pytest.mark.skipif(not HOSTILE, reason="the hostile files are not there"),
]


def peak_bytes_of(session: int) -> int:
    """The most that any process of a session had in memory so far."""
    peak = 0
    for folder in Path("/proc").glob("[0-9]*"):
        with suppress(OSError, ValueError, IndexError):
            stat = (folder / "stat").read_text().rpartition(")")[2].split()
            if int(stat[3]) == session:
                [line] = [
                    line
                    for line in (folder / "status").read_text().splitlines()
                    if line.startswith(("VmHWM", "VmRSS"))
                ][:1]
                peak = max(peak, int(line.split()[1]) << 10)
    return peak


def run(*command: str | Path) -> tuple[int, str, int]:
    """Exit code, what was printed, and the peak of all processes."""
    job = start_shardrank(*command)
    peak = 0
    while True:
        peak = max(peak, peak_bytes_of(job.pid))
        with suppress(subprocess.TimeoutExpired):
            printed, _ = job.communicate(timeout=0.5)
            return job.returncode, printed, peak


def test_every_hostile_shard_costs_itself_and_the_exit_code_is_as_configured(
    tmp_path: Path,
) -> None:
    write_nested(tmp_path / "in" / "0.parquet", [row(number) for number in range(4)])
    for path in HOSTILE:
        shutil.copy(path, tmp_path / "in" / path.name)
    write_nested(tmp_path / "in" / "zzz.parquet", [row(number) for number in range(4, 8)])
    output = tmp_path / "out"
    command = ["rerank", "--input", tmp_path / "in", "--output", output, "--model", "demo"]
    started = time.monotonic()
    code, printed, peak = run(*command)
    assert code == EXIT_REJECTED, printed
    assert f"shards given up: {len(HOSTILE)}" in printed
    assert f"--set errors.max_failed_shards={len(HOSTILE)}" in printed
    assert "Traceback" not in printed
    assert [given["query_id"] for given in read_output(output)] == [f"q{n}" for n in range(8)]
    tombstones = [json.loads(f.read_text()) for f in output.glob("_shardrank/failed/*.json")]
    assert {each["shard"] for each in tombstones} == {path.name for path in HOSTILE}
    assert all(each["code"] and each["shard"] in each["message"] for each in tombstones)
    assert 0 < peak < MAX_BYTES
    assert time.monotonic() - started < 300
    accepted = shardrank(*command, "--set", f"errors.max_failed_shards={len(HOSTILE)}")
    assert accepted.returncode == 0, accepted.stderr
    assert shardrank("verify", tmp_path / "in", output).returncode == 0
