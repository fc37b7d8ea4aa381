"""The pair hashes of an output, computed again from its texts.

This shares no code with what wrote the rows: docs/reuse.md says what a hash is made of.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from hashlib import blake2b
from typing import Any

import pyarrow as pa

from shardrank.store.plan import Plan
from shardrank.store.verify_input import raw


def check_hashes(
    plan: Plan,
    after: pa.Table,
    fields: Mapping[str, Any],
    rows: Any,
    report: Callable[[str], None],
) -> None:
    """Compare, where the plan asks for hashes.

    fields: of the N pairs, the text and the hash among them. rows: int64 [N], the row of each pair
    in `after`.
    """
    if not plan.output_fields.get("output.pair_hash"):
        return
    columns = plan.input_columns
    default = str(plan.score_fields["prompt.instruction"]).encode()
    queries, own = raw(after.column(columns.query)), [None] * len(after)
    if columns.instruction in after.column_names:
        own = raw(after.column(columns.instruction))
    fronts = [
        _front(plan.fingerprints.score, default if instruction is None else instruction, query)
        for instruction, query in zip(own, queries, strict=True)
    ]
    texts = raw(fields[columns.text])
    found = fields[plan.output_columns.pair_hash].to_pylist()
    for row, text, value in zip(rows.tolist(), texts, found, strict=True):
        front = fronts[row]
        expected = blake2b(front, digest_size=4).digest()
        if value != expected + blake2b(front + text, digest_size=12).digest():
            report(f"a {plan.output_columns.pair_hash} is not that of its query and text")
            return


def _front(score_fingerprint: str, instruction: bytes, query: bytes) -> bytes:
    sized = [len(part).to_bytes(8, "little") + part for part in (instruction, query)]
    return bytes.fromhex(score_fingerprint) + b"".join(sized)
