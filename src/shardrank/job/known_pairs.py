"""Which pairs an earlier output has scores of, for whoever only wants to know."""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from shardrank.job.reuse import MAX_PAIRS_IN_HAND, has_at_most
from shardrank.schema import PAIR_HASH, PAIR_HASH_TYPE
from shardrank.store.filesystem import Storage
from shardrank.store.pair_hash import HashArray, as_arrow, pair_hashes
from shardrank.store.pair_index import PairIndex
from shardrank.store.plan import load_plan
from shardrank.store.results import Results
from shardrank.store.unit_table import UnitTable
from shardrank.types import BoolArray, Int64Array

_NUM_THREADS = 16

Lookup = Callable[[HashArray, Int64Array], int]
"""Of hashes, uint8 [P, 16], and places among them, int64 [N]: how many of these are known."""


class KnownPairs:
    """Counts pairs that have an earlier score. instruction: of rows that have none of their own."""

    def __init__(self, fingerprint: str, instruction: str, lookup: Lookup) -> None:
        self._fingerprint, self._instruction, self._lookup = fingerprint, instruction, lookup

    @staticmethod
    def of(
        storage: Storage, instruction: str, max_pairs_in_hand: int = MAX_PAIRS_IN_HAND
    ) -> KnownPairs | None:
        """Those of a finished output with pair hashes; nothing is written.

        None where they cannot be looked up cheaply: the output has no index yet, and too many
        pairs to take all of their hashes into memory.

        Raises OutputError if the output cannot be read.
        """
        plan, index = load_plan(storage), PairIndex.load(storage)
        if plan is None:
            return None
        if index is not None:
            found = index
            return KnownPairs(
                plan.fingerprints.score, instruction, lambda h, places: len(found.find(h, places))
            )
        if not has_at_most(plan, max_pairs_in_hand):
            return None
        return KnownPairs(plan.fingerprints.score, instruction, _lookup_in_hand(storage))

    def num_among(self, rows: UnitTable, wanted: BoolArray) -> int:
        """How many of the wanted pairs, bool [P], are known."""
        hashes = pair_hashes(
            self._fingerprint,
            rows.queries,
            rows.instructions,
            self._instruction,
            rows.texts,
            rows.query_index,
            wanted,
        )
        return self._lookup(hashes, np.flatnonzero(wanted))


def _lookup_in_hand(storage: Storage) -> Lookup:
    results = Results.open(storage.url)

    def hashes_of(number: int) -> pa.Table:
        return results.scored_pairs(number, [PAIR_HASH, "log_odds"]).select([PAIR_HASH])

    empty = pa.table({PAIR_HASH: pa.array([], PAIR_HASH_TYPE)})
    with ThreadPoolExecutor(_NUM_THREADS, thread_name_prefix="known") as threads:
        parts = list(threads.map(hashes_of, results.numbers))
    column = pa.concat_tables([empty, *(part.cast(empty.schema) for part in parts)])[PAIR_HASH]
    known = column.combine_chunks()

    def lookup(hashes: HashArray, places: Int64Array) -> int:
        found = pc.is_in(as_arrow(hashes[places]), value_set=known)
        return int(np.count_nonzero(found.to_numpy(zero_copy_only=False)))

    return lookup
