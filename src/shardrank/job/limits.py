"""How much may be rejected before a job is not called done."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from shardrank.errors import TooManyRejectedError
from shardrank.store.filesystem import Storage
from shardrank.types import Counts


def require_few_rejected(counts: Counts, max_fraction: float, output: Storage) -> None:
    """Raise TooManyRejectedError if a larger share of the rows or of the pairs was rejected."""
    for what, rejected, total in (
        ("pairs", counts.pairs_rejected, counts.pairs_in),
        ("rows", counts.rows_rejected, counts.rows_in),
    ):
        if total and rejected / total > max_fraction:
            raise TooManyRejectedError(
                f"{rejected:,} of {total:,} {what} were rejected ({rejected / total:.1%}), more "
                f"than errors.max_rejected_fraction = {max_fraction} allows; the reasons are in "
                f"{output.display('_shardrank/rejected')}, and everything else is done: to accept "
                "that, run the same command with a higher --set errors.max_rejected_fraction=..."
            )


def require_few_failed(tombstones: Sequence[Mapping[str, Any]], max_shards: int) -> None:
    """Raise TooManyRejectedError if more shards than allowed could not be read."""
    first = {tombstone["shard"]: tombstone["message"] for tombstone in tombstones}
    if len(first) > max_shards:
        raise TooManyRejectedError(
            f"{len(first):,} shards could not be read, more than errors.max_failed_shards = "
            f"{max_shards} allows; the first: {next(iter(first.values()))}; everything else is "
            "done: to accept that, run the same command with a higher --set "
            "errors.max_failed_shards=..."
        )
