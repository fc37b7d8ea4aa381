"""How far `shardrank plan` is off: the time that it says against the job that follows.

    python bench/estimate.py --input SHARDS [--model demo] [--rounds 3] [--set KEY=VALUE]

Each round plans, reranks into a new folder, and plans again, so that a machine whose speed drifts
shows: the estimate of a round is the mean of its two plans.
"""

from __future__ import annotations

import argparse
import json
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from results import make_row

SHARDRANK = [sys.executable, "-m", "shardrank"]


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--input", required=True)
    parser.add_argument("--model", default="demo")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--set", action="append", default=[], dest="settings")
    arguments = parser.parse_args()
    settings = [part for setting in arguments.settings for part in ("--set", setting)]
    job = ["--input", arguments.input, "--model", arguments.model, *settings]
    ratios, rounds = [], []
    for _ in range(arguments.rounds):
        with tempfile.TemporaryDirectory() as folder:
            output = [*job, "--output", str(Path(folder) / "out")]
            before = planned_seconds(output)
            started = time.monotonic()
            subprocess.run([*SHARDRANK, "rerank", *output], check=True, capture_output=True)
            taken = time.monotonic() - started
            after = planned_seconds(output)
        estimate = (before + after) / 2
        ratios.append(estimate / taken)
        rounds.append(f"{before:.0f} and {after:.0f} s, taken {taken:.0f} s")
        print(f"{rounds[-1]}: {ratios[-1]:.2f}", flush=True)
    figures = (
        f"planned before and after: {'; '.join(rounds)}; planned / taken, median of rounds "
        f"{statistics.median(ratios):.2f}, from {min(ratios):.2f} to {max(ratios):.2f}"
    )
    command = f"bench/estimate.py --model {Path(arguments.model).name} --rounds {arguments.rounds}"
    print(make_row(command, figures, ["onnxruntime", "ray"]))


def planned_seconds(job: list[str]) -> float:
    """What `plan` says that the job takes."""
    done = subprocess.run(
        [*SHARDRANK, "plan", *job, "--json"], check=True, capture_output=True, text=True
    )
    return float(json.loads(done.stdout)["seconds"])


if __name__ == "__main__":
    main()
