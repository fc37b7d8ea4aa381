"""How a whole job scales: `python bench/scaling.py --pairs FOLDER [--model demo]`.

`shardrank rerank` as a user types it, for each number of --actors on the input once, and for each
number of --copies of the input with one actor. Told apart: the start (of Python, of Ray, of the
actor and its session, and the first unit), the rate from the first commit to the last, and the
whole command. Actors ask Ray for half of the cores together, and have threads for all.

--model free: scoring that costs nothing (shardrank.testing.fake_model).
"""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from commits import committed
from results import make_parser, make_row, typed

from shardrank.engine.machine import num_cores
from shardrank.testing import fake_model


@dataclass(frozen=True)
class Execution:
    """Of one command: pairs, seconds to the first commit and in all, and the rate in between."""

    num_pairs: int
    seconds_start: float
    seconds: float
    pairs_per_second: float

    def __str__(self) -> str:
        return (
            f"{self.num_pairs:,} pairs: start {self.seconds_start:.1f} s, then "
            f"{self.pairs_per_second:,.1f} pairs/s, {self.seconds:.1f} s in all"
        )


def execute(
    pairs: Path, model: str, output: Path, num_actors: int, more: Sequence[str]
) -> Execution:
    """Rerank into a new folder."""
    settings = {
        "cluster.min_actors": num_actors,
        "cluster.max_actors": num_actors,
        "cluster.cpus_per_actor": num_cores() / num_actors / 2,
        "scoring.threads": max(1, num_cores() // num_actors),
    }
    command = [sys.executable, "-m", "shardrank", "rerank", "--input", str(pairs)]
    command += ["--output", str(output), "--model", model]
    for setting in [f"{key}={value}" for key, value in settings.items()] + list(more):
        command += ["--set", setting]
    started = time.time()
    done = subprocess.run(command, capture_output=True, text=True)
    seconds = time.time() - started
    if done.returncode:
        sys.exit(done.stderr)
    num_pairs = json.loads((output / "_SUCCESS").read_text())["counts"]["pairs_out"]
    commits = committed(output, num_pairs)
    return Execution(num_pairs, commits.first - started, seconds, commits.pairs_per_second)


def multiply(pairs: Path, folder: Path, copies: int) -> Path:
    """A folder with every shard so many times."""
    folder.mkdir()
    for shard in [pairs] if pairs.is_file() else sorted(pairs.glob("*.parquet")):
        for number in range(copies):
            shutil.copy(shard, folder / f"{number}-{shard.name}")
    return folder


def main() -> None:
    """Measure and print."""
    parser = make_parser(__doc__)
    parser.add_argument("--pairs", type=Path, required=True, help="A folder of shards, or one.")
    parser.add_argument("--model", default="demo", help="A prepared model, demo, or free.")
    parser.add_argument("--actors", type=int, nargs="*", default=[1, 2], help="How many.")
    parser.add_argument("--copies", type=int, nargs="*", default=[1, 4], help="Of input.")
    parser.add_argument("--set", action="append", default=[], help="As of shardrank rerank.")
    arguments = parser.parse_args()
    figures = []
    with tempfile.TemporaryDirectory() as temporary:
        folder, model = Path(temporary), arguments.model
        if model == "free":
            model = str(fake_model(folder / "model"))
        cases = [(number, 1) for number in arguments.actors]
        cases += [(1, number) for number in arguments.copies if number > 1]
        for num_actors, copies in cases:
            name = f"{num_actors}-{copies}"
            pairs = multiply(arguments.pairs, folder / f"pairs-{name}", copies)
            done = execute(pairs, model, folder / f"out-{name}", num_actors, arguments.set)
            figures.append(f"actors {num_actors}, input {copies} times: {done}")
            print(figures[-1], flush=True)
    print(make_row(typed(), "; ".join(figures), ["ray", "onnxruntime"]))


if __name__ == "__main__":
    main()
