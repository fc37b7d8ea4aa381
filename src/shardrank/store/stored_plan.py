"""job.json as it lies there: its keys, and what each must be."""

from __future__ import annotations

from typing import Any

from pydantic import BaseModel, ValidationError

from shardrank.config import InputColumns, OutputColumns
from shardrank.types import Layout

StoredShard = tuple[str, int, str, int | None, int, list[tuple[int | None, int | None]]]
"""Path, size, etag, num_rows, num_split_queries, and [row_stop, num_pairs] of each unit."""


class StoredPlan(BaseModel):
    """A plan as JSON. Validated strictly: nothing is taken for what it could be turned into."""

    created: str
    version: str
    score_fingerprint: str
    output_fingerprint: str
    score_fields: dict[str, Any]
    output_fields: dict[str, Any]
    layout: Layout
    input_columns: InputColumns
    output_columns: OutputColumns
    shards: list[StoredShard]


def reason_of(error: Exception) -> str:
    """Why a plan is damaged, in one line."""
    if isinstance(error, ValidationError):
        first = error.errors()[0]
        return f"{'.'.join(map(str, first['loc']))}: {first['msg']}"
    return f"{type(error).__name__}: {error}"
