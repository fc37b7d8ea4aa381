"""When the units of an output were committed, by its files: for benchmarks of whole jobs."""

from __future__ import annotations

import sys
from dataclasses import dataclass
from pathlib import Path

import pyarrow.parquet as pq


@dataclass(frozen=True)
class Commits:
    """first: of the first file, in seconds since 1970; the rate is from there to the last."""

    first: float
    pairs_per_second: float


def committed(output: Path, num_pairs: int) -> Commits:
    """Of a local output with that many pairs, in two units or more."""
    times: list[tuple[float, int]] = sorted(
        (path.stat().st_mtime, pq.read_metadata(path).num_rows) for path in output.glob("*.parquet")
    )
    if len(times) < 2:
        sys.exit("the job has one unit, and so no rate; give --set units.pairs=N with a smaller N")
    all_rows = sum(num_rows for _, num_rows in times)
    share = 1 - times[0][1] / all_rows
    return Commits(times[0][0], num_pairs * share / max(1e-9, times[-1][0] - times[0][0]))
