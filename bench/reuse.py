"""An index of many pairs: how long it takes to make, how much memory, and what a lookup costs.

    python bench/reuse.py --pairs 5000000

The output is made up, without a model: queries of 100 candidates whose texts are their numbers.
"""

from __future__ import annotations

import os
import resource
import tempfile
import threading
import time
from contextlib import suppress
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from results import make_parser, make_row

from shardrank.config import InputColumns, OutputColumns
from shardrank.job.cluster import connected
from shardrank.job.reuse import ensure_index
from shardrank.store.filesystem import Storage
from shardrank.store.footers import read_footers
from shardrank.store.output import build_output
from shardrank.store.pair_hash import HashArray, pair_hashes
from shardrank.store.plan import Plan, new_plan, open_plan
from shardrank.store.reader import read_unit
from shardrank.store.unit_table import UnitTable
from shardrank.store.units import cut_units, list_shards
from shardrank.store.writer import Attempt, commit_unit, read_footers_of, write_success

CANDIDATES, UNIT_PAIRS = 100, 32_768
NESTED = pa.schema(
    [
        ("query_id", pa.string()),
        ("query", pa.string()),
        ("candidates", pa.list_(pa.struct([("doc_id", pa.string()), ("text", pa.string())]))),
    ]
)


def main() -> None:
    parser = make_parser(__doc__)
    parser.add_argument("--pairs", type=int, default=5_000_000)
    parser.add_argument("--units", type=int, default=20, help="Units of 1024 pairs to look up.")
    asked = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        make_input(Path(folder) / "in", asked.pairs // CANDIDATES)
        output = Storage(f"{folder}/out")
        plan = make_output(f"{folder}/in", output)
        before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        with connected("local"), Watcher() as watcher:
            started = time.monotonic()
            index = ensure_index(output)
            seconds = time.monotonic() - started
        driver = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        files = [file.stat().st_size for file in Path(f"{folder}/out/_shardrank/reuse").iterdir()]
        lookups = []
        for number in np.random.default_rng(0).integers(0, len(plan.units), asked.units).tolist():
            rows = read(Storage(f"{folder}/in", "input"), plan, number)
            hashes = hashes_of(rows, plan)
            # About eleven queries in a row.
            places = np.sort((np.arange(1024) + 37 * number) % rows.num_pairs)
            started = time.monotonic()
            found = index.find(hashes, places)
            lookups.append(time.monotonic() - started)
            assert len(found) == len(places)
        figures = (
            f"index of {asked.pairs:,} pairs in {len(files) - 1} files of {sum(files) / 1e6:,.0f} "
            f"MB: {seconds:,.0f} s; most private memory of all processes, Ray's object store "
            f"apart, {watcher.most / 1e9:.2f} GB, the driver's peak {before / 1e6:.2f} to "
            f"{driver / 1e6:.2f} GB; lookup of 1,024 pairs: median {np.median(lookups) * 1000:.0f} "
            "ms"
        )
        print(make_row(f"bench/reuse.py --pairs {asked.pairs}", figures, ("ray", "pyarrow")))


class Watcher:
    """The most private memory that this process and all below it had at once."""

    def __init__(self) -> None:
        self.most = 0
        self._ends = threading.Event()
        self._thread = threading.Thread(target=self._watch, daemon=True)

    def __enter__(self) -> Watcher:
        self._thread.start()
        return self

    def __exit__(self, *exception: object) -> None:
        self._ends.set()
        self._thread.join()

    def _watch(self) -> None:
        while not self._ends.wait(1.0):
            self.most = max(self.most, sum(private_bytes(number) for number in family()))


def family() -> list[int]:
    """This process and all below it."""
    parents: dict[int, int] = {}
    for path in Path("/proc").glob("[0-9]*/stat"):
        with suppress(OSError):
            parents[int(path.parent.name)] = int(path.read_text().rpartition(")")[2].split()[1])
    found = [os.getpid()]
    for number in found:
        found += [child for child, parent in parents.items() if parent == number]
    return found


def private_bytes(process: int) -> int:
    """What would be free if the process ended."""
    try:
        lines = Path(f"/proc/{process}/smaps_rollup").read_text().splitlines()
    except OSError:
        return 0
    return 1024 * sum(int(line.split()[1]) for line in lines if line.startswith("Private_"))


def make_input(folder: Path, num_queries: int) -> None:
    folder.mkdir()
    for start in range(0, num_queries, 20_000):
        numbers = np.arange(start, min(start + 20_000, num_queries))
        texts = pa.array(np.arange(len(numbers) * CANDIDATES) + start * CANDIDATES).cast(
            pa.string()
        )
        structs = pa.StructArray.from_arrays([texts, texts], ["doc_id", "text"])
        offsets = pa.array(np.arange(len(numbers) + 1) * CANDIDATES, pa.int32())
        ids = pa.array(numbers).cast(pa.string())
        columns = [ids, ids, pa.ListArray.from_arrays(offsets, structs)]
        table = pa.table(columns, NESTED.names)
        pq.write_table(table, folder / f"{start:09d}.parquet", row_group_size=300)


def make_output(source: str, output: Storage) -> Plan:
    storage, shards = list_shards(source, output)
    footers = read_footers(storage, shards, "nested", InputColumns())
    units = cut_units(footers, UNIT_PAIRS, "nested")
    score_fields = {"model": "none", "prompt.instruction": "find"}
    shape = {"output.pair_hash": True}
    plan = new_plan(score_fields, shape, "nested", InputColumns(), OutputColumns(), units)
    plan = open_plan(output, plan)
    for unit in plan.units:
        rows = read(storage, plan, unit.number)
        num = rows.num_pairs
        made = build_output(
            rows,
            np.random.default_rng(unit.number).normal(size=num).astype(np.float32),
            np.full(num, 100, np.int32),
            np.zeros(num, np.bool_),
            columns=OutputColumns(),
            top_k=None,
            min_score=None,
            pair_hashes=hashes_of(rows, plan),
        )
        commit_unit(output, unit, plan.fingerprints, made, Attempt(str(unit.number), {}, {}))
    write_success(output, plan, read_footers_of(output, plan, range(len(plan.units))))
    return plan


def read(storage: Storage, plan: Plan, number: int) -> UnitTable:
    return read_unit(storage, plan.units[number], "nested", InputColumns(), 1_000_000)


def hashes_of(rows: UnitTable, plan: Plan) -> HashArray:
    return pair_hashes(
        plan.fingerprints.score,
        rows.queries,
        rows.instructions,
        "find",
        rows.texts,
        rows.query_index,
        rows.pair_ok,
    )


if __name__ == "__main__":
    main()
