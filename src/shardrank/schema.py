"""Arrow schemas of what shardrank writes, and the reading of what it is given."""

from __future__ import annotations

import pyarrow as pa

REJECTED_SCHEMA = pa.schema(
    [
        pa.field("unit", pa.string(), nullable=False),
        pa.field("shard", pa.string(), nullable=False),
        pa.field("row", pa.int64(), nullable=False),
        pa.field("position", pa.int64()),
        pa.field("query_id", pa.string()),
        pa.field("doc_id", pa.string()),
        pa.field("code", pa.string(), nullable=False),
        pa.field("message", pa.string(), nullable=False),
        pa.field("num_pairs", pa.int64(), nullable=False),
    ]
)
"""One row per rejection; `position` is null where the whole row was rejected."""

PAIR_FIELDS: dict[str, pa.DataType] = {
    "log_odds": pa.float32(),
    "score": pa.float64(),
    "rank": pa.int32(),
    "position": pa.int64(),
    "num_tokens": pa.int32(),
    "truncated": pa.bool_(),
}
"""What is said of a pair: struct fields of a candidate (nested) or columns (pairs)."""

PAIR_HASH = "pair_hash"
PAIR_HASH_TYPE = pa.binary(16)
"""What is added to PAIR_FIELDS where output.pair_hash is set."""

ROW_FIELDS: dict[str, pa.DataType] = {
    "num_cut": pa.int64(),
    "num_rejected": pa.int64(),
}
"""What is said of a row in the nested layout."""

PYLATE_SCHEMAS: dict[str, pa.Schema] = {
    "train": pa.schema(
        [
            ("query_id", pa.string()),
            ("document_ids", pa.list_(pa.string())),
            ("scores", pa.list_(pa.float32())),
        ]
    ),
    "queries": pa.schema([("query_id", pa.string()), ("text", pa.string())]),
    "documents": pa.schema([("document_id", pa.string()), ("text", pa.string())]),
}
"""PyLate's three tables for knowledge distillation."""


def pair_fields(pair_hash: bool) -> dict[str, pa.DataType]:
    """PAIR_FIELDS, and the hash where it is written."""
    return {**PAIR_FIELDS, PAIR_HASH: PAIR_HASH_TYPE} if pair_hash else PAIR_FIELDS


def is_text(data_type: pa.DataType) -> bool:
    """True for the types that a text column may have (dictionary-encoded ones too)."""
    if pa.types.is_dictionary(data_type):
        return is_text(data_type.value_type)
    return bool(
        pa.types.is_string(data_type)
        or pa.types.is_large_string(data_type)
        or pa.types.is_string_view(data_type)
    )


def is_list(data_type: pa.DataType) -> bool:
    """True for every kind of Arrow list."""
    return bool(
        pa.types.is_list(data_type)
        or pa.types.is_large_list(data_type)
        or pa.types.is_fixed_size_list(data_type)
        or pa.types.is_list_view(data_type)
        or pa.types.is_large_list_view(data_type)
    )
