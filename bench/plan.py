"""What planning a large input costs the driver: `python bench/plan.py [--shards 100000]`.

The store is simulated: a listing of so many shards, and for each the footer of one real Parquet
file of 500 queries with 20 candidates, so that 100,000 shards are 10^9 pairs. Each request waits as
long as an object store would (--latency-ms, 20), and a page of a listing, of 1000 names, five times
that. What is measured is the driver's own work: listing, footers, cutting units, job.json, and
reading that again for a resume; with its processor time and its peak memory.
"""

from __future__ import annotations

import resource
import time
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import fsspec
import pyarrow as pa
import pyarrow.parquet as pq
from fsspec.spec import AbstractFileSystem
from results import make_parser, make_row

from shardrank.config import InputColumns, OutputColumns
from shardrank.store.commits import committed
from shardrank.store.filesystem import Storage
from shardrank.store.footers import read_footers
from shardrank.store.plan import load_plan, new_plan, open_plan
from shardrank.store.units import cut_units, list_shards

QUERIES, CANDIDATES = 500, 20
PAGE = 1000


class SimulatedStore(AbstractFileSystem):
    """So many copies of one file, each request after a wait."""

    protocol = "simulated"
    content = b""
    num_shards = 0
    latency_seconds = 0.0
    num_requests = 0

    def _wait(self, times: float = 1.0) -> None:
        SimulatedStore.num_requests += 1
        time.sleep(self.latency_seconds * times)

    def _info(self, path: str) -> dict[str, Any]:
        return {"name": path, "size": len(self.content), "type": "file", "ETag": '"a"'}

    def info(self, path: str, **options: Any) -> dict[str, Any]:
        self._wait()
        if not path.endswith(".parquet"):
            raise FileNotFoundError(path)
        return self._info(path)

    def find(self, path: str, **options: Any) -> dict[str, Any]:
        names = [f"{path}/part-{number:06d}.parquet" for number in range(self.num_shards)]
        for _ in range(0, self.num_shards, PAGE):
            self._wait(5.0)
        return {name: self._info(name) for name in names}

    def ls(self, path: str, detail: bool = True, **options: Any) -> Any:
        return list(self.find(path).values())

    def cat_file(
        self, path: str, start: int | None = None, end: int | None = None, **_: Any
    ) -> Any:
        self._wait()
        return self.content[start:end]


def one_shard() -> bytes:
    """A file as a first stage writes it, in row groups of 100 queries."""
    words = [f"word{number % 977} and {number % 7919}" for number in range(40 * CANDIDATES)]
    texts = [" ".join(words[place : place + 12]) for place in range(CANDIDATES)]
    rows = [
        {
            "query_id": f"q{number}",
            "query": f"what is {number}",
            "candidates": [{"doc_id": f"d{i}", "text": f"{number} {texts[i]}"} for i in range(20)],
        }
        for number in range(QUERIES)
    ]
    sink = pa.BufferOutputStream()
    pq.write_table(pa.Table.from_pylist(rows), sink, row_group_size=100)
    return bytes(sink.getvalue())


def main() -> None:
    """Measure and print."""
    parser = make_parser(__doc__)
    parser.add_argument("--shards", type=int, default=100_000)
    parser.add_argument("--latency-ms", type=float, default=20.0)
    parser.add_argument("--unit-pairs", type=int, default=32_768)
    arguments = parser.parse_args()
    fsspec.register_implementation("simulated", SimulatedStore)
    SimulatedStore.content = one_shard()
    SimulatedStore.num_shards = arguments.shards
    SimulatedStore.latency_seconds = arguments.latency_ms / 1000
    steps: list[str] = []
    start_bytes = peak_bytes()

    def timed(name: str, function: Any) -> Any:
        wall, cpu = time.perf_counter(), time.process_time()
        found = function()
        seconds = time.perf_counter() - wall
        steps.append(f"{name} {seconds:.1f} s ({time.process_time() - cpu:.1f} CPU s)")
        print(steps[-1], f"peak {peak_bytes() / 1e9:.2f} GB", flush=True)
        return found

    columns = InputColumns()
    source, shards = timed("listing", lambda: list_shards("simulated://bucket/in"))
    footers = timed("footers", lambda: read_footers(source, shards, "nested", columns))
    units = timed("units", lambda: cut_units(footers, arguments.unit_pairs, "nested"))
    pairs = sum(unit.num_pairs or 0 for unit in units)
    with TemporaryDirectory() as folder:
        output = Storage(folder, "output")
        plan = new_plan({}, {}, "nested", columns, OutputColumns(), units)
        timed("job.json", lambda: open_plan(output, plan))
        size = (Path(folder) / "_shardrank" / "job.json").stat().st_size
        loaded = timed("reading it again", lambda: load_plan(output))
        timed("what is pending", lambda: committed(output, loaded))
    figures = (
        f"{len(shards):,} shards, {pairs:,} pairs, {len(units):,} units, "
        f"{SimulatedStore.num_requests:,} requests of {arguments.latency_ms:.0f} ms: "
        f"{', '.join(steps)}; job.json {size / 1e6:.1f} MB; peak memory "
        f"{peak_bytes() / 1e9:.2f} GB, {start_bytes / 1e9:.2f} before"
    )
    command = f"bench/plan.py --shards {arguments.shards} --unit-pairs {arguments.unit_pairs}"
    print(make_row(command, figures, ["pyarrow", "fsspec"]))


def peak_bytes() -> int:
    """Of this process, so far."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


if __name__ == "__main__":
    main()
