"""The hash by which a pair is known again: of what its score depends on, never of its ids.

16 bytes: 4 of BLAKE2b(front) and 12 of BLAKE2b(front, document), where front = the score
fingerprint's 32 bytes, then instruction and query, each behind its length (8 bytes, little-endian),
and all texts are UTF-8. The first 4 bytes are the same for all pairs of a query, so that they lie
together in an index.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from shardrank.schema import PAIR_HASH_TYPE
from shardrank.types import BoolArray, Int64Array

NUM_BYTES, NUM_QUERY_BYTES = 16, 4
HashArray = NDArray[np.uint8]
"""uint8 [N, 16]."""


def pair_hashes(
    score_fingerprint: str,
    queries: Sequence[str | None],
    instructions: Sequence[str | None] | None,
    default_instruction: str,
    texts: Sequence[str | None],
    query_index: Int64Array,
    wanted: BoolArray,
) -> HashArray:
    """Hashes of pairs, uint8 [P, 16]; zeros where `wanted`, bool [P], is False.

    score_fingerprint: sha256, hexadecimal. queries, instructions: [Q]; an instruction that is None
    is the default. texts: [P], the documents; query_index: int64 [P], the query of each.
    """
    fronts: dict[int, tuple[bytes, Any]] = {}
    parts: list[bytes] = []
    places = np.flatnonzero(wanted)
    for place, query in zip(places.tolist(), query_index[places].tolist(), strict=True):
        if query not in fronts:
            own = None if instructions is None else instructions[query]
            front = bytes.fromhex(score_fingerprint) + b"".join(
                _sized(default_instruction if text is None else text)
                for text in (own, queries[query] or "")
            )
            fronts[query] = (
                hashlib.blake2b(front, digest_size=NUM_QUERY_BYTES).digest(),
                hashlib.blake2b(front, digest_size=NUM_BYTES - NUM_QUERY_BYTES),
            )
        of_query, hasher = fronts[query]
        of_pair = hasher.copy()
        of_pair.update((texts[place] or "").encode())
        parts += (of_query, of_pair.digest())
    hashes = np.zeros((len(texts), NUM_BYTES), np.uint8)
    hashes[places] = np.frombuffer(b"".join(parts), np.uint8).reshape(-1, NUM_BYTES)
    return hashes


def as_arrow(hashes: HashArray) -> pa.Array:
    """Hashes as an Arrow array of fixed_size_binary[16]."""
    buffer = pa.py_buffer(np.ascontiguousarray(hashes))
    return pa.Array.from_buffers(PAIR_HASH_TYPE, len(hashes), [None, buffer])


def from_arrow(column: Any) -> HashArray:
    """The inverse of as_arrow, of an array or a chunked array without nulls."""
    chunks = column.chunks if isinstance(column, pa.ChunkedArray) else [column]
    parts = [np.zeros((0, NUM_BYTES), np.uint8)]
    for chunk in chunks:
        data = np.frombuffer(chunk.buffers()[1], np.uint8).reshape(-1, NUM_BYTES)
        parts.append(data[chunk.offset : chunk.offset + len(chunk)])
    return np.concatenate(parts)


def _sized(text: str) -> bytes:
    data = text.encode()
    return len(data).to_bytes(8, "little") + data
