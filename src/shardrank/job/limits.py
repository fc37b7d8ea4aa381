"""How much may be rejected before a job is not called done."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

from shardrank.config import ErrorsConfig
from shardrank.errors import TooManyRejectedError
from shardrank.store.filesystem import Storage
from shardrank.types import Counts


def require_few_rejected(
    counts: Counts,
    tombstones: Sequence[Mapping[str, Any]],
    limits: ErrorsConfig,
    output: Storage,
) -> None:
    """Raise TooManyRejectedError if more rows, pairs or shards were given up than allowed.

    One message names every limit that was passed, with a value that would do.
    """
    found, settings = [], []
    worst = max(rejected_share(counts).values())
    if worst > limits.max_rejected_fraction:
        found.append(
            f"{counts.pairs_rejected:,} of {counts.pairs_in:,} pairs and "
            f"{counts.rows_rejected:,} of {counts.rows_in:,} rows were rejected, for the reasons "
            f"in {output.display('_shardrank/rejected')}"
        )
        settings.append(f"errors.max_rejected_fraction={math.ceil(worst * 1000) / 1000:g}")
    first = {tombstone["shard"]: tombstone["message"] for tombstone in tombstones}
    if len(first) > limits.max_failed_shards:
        found.append(f"shards given up: {len(first):,}, the first: {next(iter(first.values()))}")
        settings.append(f"errors.max_failed_shards={len(first)}")
    if found:
        accept = " ".join(f"--set {setting}" for setting in settings)
        raise TooManyRejectedError(
            f"{'; '.join(found)}. Everything else is done; `shardrank report` of the output shows "
            f"reasons and examples. To accept that, run the same command with {accept}"
        )


def rejected_share(counts: Counts) -> dict[str, float]:
    """Rejected rows and pairs as shares of all."""
    return {
        "rows": counts.rows_rejected / counts.rows_in if counts.rows_in else 0.0,
        "pairs": counts.pairs_rejected / counts.pairs_in if counts.pairs_in else 0.0,
    }
