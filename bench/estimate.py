"""How far `shardrank plan` is off: the time that it says against the job that follows.

    python bench/estimate.py --input SHARDS [--model demo] [--rounds 3] [--set KEY=VALUE]

Each round plans, reranks into a new folder, and plans again; the estimate of a round is the mean of
its two plans. On a machine that others use too, wall time says more about them than about the plan,
so both are compared in processor time as well: what scoring, tokenizing and writing need by the
plan (its seconds, by the share of the processors that it had), and what the job's workers used.
"""

from __future__ import annotations

import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

from results import make_parser, make_row

from shardrank.engine.machine import num_cores

SHARDRANK = [sys.executable, "-m", "shardrank"]


def main() -> None:
    """Measure and print."""
    parser = make_parser(__doc__)
    parser.add_argument("--input", required=True)
    parser.add_argument("--model", default="demo")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--set", action="append", default=[], dest="settings")
    arguments = parser.parse_args()
    settings = [part for setting in arguments.settings for part in ("--set", setting)]
    job = ["--input", arguments.input, "--model", arguments.model, *settings]
    walls, ratios, rounds = [], [], []
    for _ in range(arguments.rounds):
        with tempfile.TemporaryDirectory() as folder:
            output = [*job, "--output", str(Path(folder) / "out")]
            before, cpu_before = planned(output)
            started = time.monotonic()
            cpu_taken = run(["rerank", *output])
            taken = time.monotonic() - started
            after, cpu_after = planned(output)
        walls.append((before + after) / 2 / taken)
        ratios.append((cpu_before + cpu_after) / 2 / cpu_taken)
        rounds.append(
            f"{before:.0f} and {after:.0f} s for {taken:.0f} s, processor time {cpu_before:.0f} "
            f"and {cpu_after:.0f} s for {cpu_taken:.0f} s"
        )
        print(f"{rounds[-1]}: {walls[-1]:.2f}, {ratios[-1]:.2f}", flush=True)
    figures = (
        f"planned before and after, for taken: {'; '.join(rounds)}; planned / taken, median of "
        f"rounds: wall {statistics.median(walls):.2f}, processor {statistics.median(ratios):.2f} "
        f"({min(ratios):.2f} to {max(ratios):.2f})"
    )
    command = f"bench/estimate.py --model {Path(arguments.model).name} --rounds {arguments.rounds}"
    print(make_row(command, figures, ["onnxruntime", "ray"]))


def planned(job: list[str]) -> tuple[float, float]:
    """What `plan` says that the job takes, and how much of it is work of processors."""
    done = subprocess.run(
        [*SHARDRANK, "plan", *job, "--json"], check=True, capture_output=True, text=True
    )
    found = json.loads(done.stdout)
    scoring = found["pairs"] / found["pairs_per_second"]
    rest = found["seconds"] - found["start_seconds"] - scoring
    threads = num_cores()
    return found["seconds"], threads * (scoring * found["busy_share"] + rest)


def run(command: list[str]) -> float:
    """Run a command to its end; processor seconds of the Ray workers below it that did work."""
    process = subprocess.Popen(
        [*SHARDRANK, *command], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
    )
    used: dict[int, float] = {}
    idle: dict[int, float] = {}
    while process.poll() is None:
        for pid, title, seconds in workers_below(process.pid):
            # Importing and starting are no work on units.
            if title.startswith("ray::IDLE"):
                idle.setdefault(pid, seconds)
            used[pid] = seconds
        time.sleep(0.3)
    if process.returncode:
        raise SystemExit(process.returncode)
    return sum(seconds - idle.get(pid, 0.0) for pid, seconds in used.items())


def workers_below(ancestor: int) -> Iterator[tuple[int, str, float]]:
    """Process id, title and processor seconds of each Ray worker among a process's descendants."""
    parents: dict[int, int] = {}
    found: dict[int, tuple[str, float]] = {}
    for folder in Path("/proc").glob("[0-9]*"):
        with suppress(OSError):
            fields = (folder / "stat").read_text().rpartition(")")[2].split()
            title = (folder / "cmdline").read_bytes().split(b"\0")[0].decode(errors="replace")
            pid = int(folder.name)
            parents[pid] = int(fields[1])
            found[pid] = title, (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")
    for pid, (title, seconds) in found.items():
        above = pid
        while above in parents and above != ancestor:
            above = parents[above]
        if above == ancestor and title.startswith("ray::"):
            yield pid, title, seconds


if __name__ == "__main__":
    main()
