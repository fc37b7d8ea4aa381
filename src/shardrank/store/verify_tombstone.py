"""Whether a unit was rightly given up."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from shardrank.store.plan import Plan
from shardrank.store.verify_input import InputRows
from shardrank.types import Unit

_UNREADABLE = "not_parquet"


def identity_of(plan: Plan, unit: Unit) -> dict[str, Any]:
    """What a data file's footer and a tombstone must say of the unit that they are of."""
    return {
        "unit": unit.number,
        "shard": unit.shard.path,
        "row_start": unit.row_start,
        "row_stop": unit.row_stop,
        "score_fingerprint": plan.fingerprints.score,
        "output_fingerprint": plan.fingerprints.output,
    }


def tombstone_problems(
    plan: Plan, unit: Unit, told: Mapping[str, Any], rows: InputRows
) -> Iterator[str]:
    """What is wrong with a tombstone.

    A shard that lacks a column, or whose rows are too large, is given up though it can be read;
    one that is said not to be Parquet is read, to see.
    """
    for name, value in identity_of(plan, unit).items():
        if told.get(name) != value:
            yield f"its tombstone says {name} = {told.get(name)!r}, not {value!r}"
    for name in ("code", "message"):
        if not isinstance(told.get(name), str) or not told[name]:
            yield f"its tombstone gives no {name}"
    if told.get("code") == _UNREADABLE and not rows.is_unreadable(unit.row_start, unit.row_stop):
        yield (
            f"it was given up as {_UNREADABLE}, although it can be read; do the job again in "
            "another output folder"
        )
