"""What a unit costs where scoring costs nothing: `python bench/job.py [--units 2000]`.

A job of so many units, each of one query with four candidates, through the real store, the real
stages and Ray Data, with a model of a few kilobytes (shardrank.testing.fake_model). Prints units
per second once they move, the driver's share of a core, and its peak memory.
"""

from __future__ import annotations

import resource
import tempfile
import threading
import time
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
from results import make_parser, make_row

from shardrank import load_config, rerank
from shardrank.job.cluster import connected
from shardrank.testing import fake_model


def main() -> None:
    """Measure and print."""
    parser = make_parser(__doc__)
    parser.add_argument("--units", type=int, default=2000)
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        root = Path(folder)
        write_input(root / "in", arguments.units)
        fake_model(root / "model")
        settings = [f"input.path={root}/in", f"output.path={root}/out", f"model.path={root}/model"]
        config = load_config(None, [*settings, "units.pairs=4"])
        with connected("local"):
            moving = FirstUnit(root / "out")
            started, cpu = time.perf_counter(), time.process_time()
            result = rerank(config)
            seconds, cpu = time.perf_counter() - started, time.process_time() - cpu
        begun = moving.seconds_after(started)
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
    figures = (
        f"{result.num_units:,} units of 4 pairs: {seconds:.0f} s, the first after {begun:.0f} s; "
        f"{result.num_units / (seconds - begun):.1f} units/s since; driver {cpu:.1f} CPU s "
        f"({cpu / seconds:.0%} of a core), {peak / 1e9:.2f} GB"
    )
    print(make_row(f"bench/job.py --units {arguments.units}", figures, ["ray", "pyarrow"]))


class FirstUnit:
    """When the first data file appeared."""

    def __init__(self, output: Path) -> None:
        self._at: float | None = None
        threading.Thread(target=self._watch, args=(output,), daemon=True).start()

    def seconds_after(self, started: float) -> float:
        """From then on; 0 where there was none."""
        return 0.0 if self._at is None else self._at - started

    def _watch(self, output: Path) -> None:
        while self._at is None:
            time.sleep(0.2)
            if output.is_dir() and any(output.glob("*.parquet")):
                self._at = time.perf_counter()


def write_input(folder: Path, num_units: int) -> None:
    """One shard, a row group for each unit."""
    folder.mkdir()
    rows: list[dict[str, Any]] = [
        {
            "query_id": f"q{number}",
            "query": f"what is {number}",
            "candidates": [
                {"doc_id": f"d{number}-{place}", "text": f"it is {number} times {place}"}
                for place in range(4)
            ],
        }
        for number in range(num_units)
    ]
    pq.write_table(pa.Table.from_pylist(rows), folder / "a.parquet", row_group_size=1)


if __name__ == "__main__":
    main()
