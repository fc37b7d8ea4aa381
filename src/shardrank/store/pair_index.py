"""An index of an output's scores by pair hash: `_shardrank/reuse/` in that output.

Pairs lie in buckets by their hash, each a Parquet file sorted by hash, written by exclusive create.
`index.json` is written last and says how hashes fall into buckets. All of it follows from the
finished output alone, so that jobs which build it at the same time write the same, and one that
died leaves nothing that the next must mind.

A hash begins with its query's 4 bytes: pairs of one query lie in one bucket and side by side in
it, and a unit looks up as many places as it has queries. A bucket that would grow too large, since
a query has very many pairs, is split by the hash's other bytes.
"""

from __future__ import annotations

import json
from bisect import bisect_right
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from shardrank.errors import OutputError
from shardrank.schema import PAIR_HASH, PAIR_HASH_TYPE
from shardrank.store.filesystem import Storage
from shardrank.store.pair_hash import NUM_BYTES, NUM_QUERY_BYTES, HashArray, as_arrow, from_arrow
from shardrank.store.plan import FOLDER
from shardrank.store.same_file import create_same
from shardrank.types import BoolArray, Float32Array, Int32Array, Int64Array

FORMAT_VERSION = 1
INDEX_FOLDER = f"{FOLDER}/reuse"
INDEX_NAME = f"{INDEX_FOLDER}/index.json"
PAIRS_PER_BUCKET = 1 << 18
ROWS_PER_GROUP = 4096
INDEX_SCHEMA = pa.schema(
    [
        pa.field(PAIR_HASH, PAIR_HASH_TYPE, nullable=False),
        pa.field("log_odds", pa.float32(), nullable=False),
        pa.field("num_tokens", pa.int32(), nullable=False),
        pa.field("truncated", pa.bool_(), nullable=False),
    ]
)
_FIRSTS = b"shardrank.first_hashes"
_GROUPS_AT_A_TIME = 64
_NUM_THREADS = 16


@dataclass(frozen=True, slots=True)
class Reused:
    """Pairs that were found. places: int64 [N], ascending; the others [N], of an earlier output."""

    places: Int64Array
    log_odds: Float32Array
    num_tokens: Int32Array
    truncated: BoolArray

    def __len__(self) -> int:
        return len(self.places)

    @staticmethod
    def none() -> Reused:
        """Nothing was found."""
        return Reused(
            np.zeros(0, np.int64), np.zeros(0, np.float32), np.zeros(0, np.int32), np.zeros(0, bool)
        )


@dataclass(frozen=True, slots=True)
class Buckets:
    """How hashes fall into buckets.

    num: buckets before any is split. splits: (bucket, into how many) of those that are split.
    """

    num: int
    splits: tuple[tuple[int, int], ...] = ()

    @staticmethod
    def of(counts: Int64Array, most: int = PAIRS_PER_BUCKET) -> Buckets:
        """Split where needed. counts: int64 [num], the pairs of each bucket."""
        large = np.flatnonzero(counts > 2 * most)
        return Buckets(len(counts), tuple((int(b), int(-(-counts[b] // most))) for b in large))

    @property
    def num_files(self) -> int:
        """Buckets after splitting; the files of empty ones are not there."""
        return self.num + sum(parts - 1 for _, parts in self.splits)

    def numbers(self, hashes: HashArray) -> Int64Array:
        """The bucket of each hash, before splitting: int64 [N]."""
        return _scaled(hashes[:, :NUM_QUERY_BYTES], self.num)

    def keys(self, hashes: HashArray) -> Int64Array:
        """The bucket of each hash and its part, as one number: int64 [N]."""
        numbers = self.numbers(hashes)
        sizes = np.ones(self.num, np.int64)
        for bucket, parts in self.splits:
            sizes[bucket] = parts
        rest = hashes[:, NUM_QUERY_BYTES : 2 * NUM_QUERY_BYTES]
        return (np.cumsum(sizes) - sizes)[numbers] + _scaled(rest, sizes[numbers])


def _scaled(digits: HashArray, num: int | Int64Array) -> Int64Array:
    """Four bytes, as a share of all that four bytes can be, of a number."""
    values = np.ascontiguousarray(digits).view(">u4").ravel().astype(np.int64)
    return (values * num) >> 32


def bucket_name(key: int) -> str:
    """The file of a bucket."""
    return f"{INDEX_FOLDER}/{key:06d}.parquet"


def write_bucket(storage: Storage, key: int, pairs: pa.Table) -> None:
    """Write a bucket, sorted and each hash once; one that is there already is the same.

    pairs: of INDEX_SCHEMA, in any order. Of one hash with several log-odds (of a model whose scores
    depend on the batch) the lowest stay, whatever order they came in.
    """
    hashes = from_arrow(pairs.column(PAIR_HASH))
    high, low = np.ascontiguousarray(hashes).view(">u8").T
    order = np.lexsort((pairs.column("log_odds").to_numpy(), low, high))
    hashes = hashes[order]
    is_new = np.ones(len(hashes), np.bool_)
    is_new[1:] = (hashes[1:] != hashes[:-1]).any(axis=1)
    table = pairs.select(INDEX_SCHEMA.names).take(pa.array(order[is_new])).cast(INDEX_SCHEMA)
    firsts = hashes[is_new][::ROWS_PER_GROUP].tobytes().hex()
    sink = pa.BufferOutputStream()
    pq.write_table(
        table.replace_schema_metadata({_FIRSTS: firsts}),
        sink,
        row_group_size=ROWS_PER_GROUP,
        compression="zstd",
        use_dictionary=False,
        write_page_checksum=True,
    )
    try:
        storage.create_exclusive(bucket_name(key), sink.getvalue().to_pybytes())
    except FileExistsError:
        return


@dataclass(frozen=True, slots=True)
class PairIndex:
    """A finished index. storage: of the output that it belongs to."""

    storage: Storage
    buckets: Buckets

    @staticmethod
    def load(storage: Storage) -> PairIndex | None:
        """The index of an output; None if it is not finished, or not begun.

        Raises OutputError if it is damaged, or of a newer shardrank.
        """
        try:
            tree = json.loads(storage.read_bytes(INDEX_NAME))
            version = tree["format_version"]
            splits = tuple((int(bucket), int(parts)) for bucket, parts in tree["splits"])
            buckets = Buckets(int(tree["buckets"]), splits)
        except FileNotFoundError:
            return None
        except (ValueError, KeyError, TypeError, AttributeError) as error:
            raise OutputError(
                f"{storage.display(INDEX_NAME)} is damaged ({error}); delete the folder "
                f"{storage.display(INDEX_FOLDER)}, and it is made again"
            ) from error
        if version != FORMAT_VERSION:
            raise OutputError(
                f"{storage.display(INDEX_NAME)} has format {version}, and this shardrank knows "
                f"{FORMAT_VERSION}; use the version that wrote it"
            )
        return PairIndex(storage, buckets)

    def finish(self) -> None:
        """Say that all buckets are written."""
        tree = {
            "format_version": FORMAT_VERSION,
            "buckets": self.buckets.num,
            "splits": self.buckets.splits,
        }
        create_same(self.storage, INDEX_NAME, json.dumps(tree, separators=(",", ":")).encode())

    def find(self, hashes: HashArray, places: Int64Array) -> Reused:
        """Look pairs up.

        hashes: uint8 [P, 16]. places: int64 [N], ascending, those among them that are meant.

        Raises OutputError if a bucket cannot be read.
        """
        if not len(places):
            return Reused.none()
        keys = self.buckets.keys(hashes[places])
        groups = [(int(key), places[keys == key]) for key in np.unique(keys)]
        num_threads = 1 if self.storage.is_local else min(_NUM_THREADS, len(groups))
        with ThreadPoolExecutor(num_threads, thread_name_prefix="reuse") as threads:
            found = list(threads.map(lambda group: self._find(group[0], hashes, group[1]), groups))
        joined = Reused(
            *(
                np.concatenate([getattr(part, name) for part in found])
                for name in ("places", "log_odds", "num_tokens", "truncated")
            )
        )
        order = np.argsort(joined.places)
        return Reused(
            joined.places[order],
            joined.log_odds[order],
            joined.num_tokens[order],
            joined.truncated[order],
        )

    def _find(self, key: int, hashes: HashArray, places: Int64Array) -> Reused:
        name, wanted = bucket_name(key), as_arrow(hashes[places])
        parts = [Reused.none()]
        try:
            for table in self._read(name, wanted):
                rows = pc.index_in(wanted, value_set=table.column(PAIR_HASH))
                mine = np.flatnonzero(rows.is_valid().to_numpy(zero_copy_only=False))
                taken = table.take(rows.drop_null())
                columns = [taken.column(name).to_numpy() for name in INDEX_SCHEMA.names[1:]]
                parts.append(Reused(places[mine], *columns))
        except FileNotFoundError:
            pass  # no pair fell into this bucket
        except (pa.ArrowException, OSError, KeyError, ValueError) as error:
            raise OutputError(
                f"{self.storage.display(name)} cannot be read ({error}); delete the folder "
                f"{self.storage.display(INDEX_FOLDER)}, and it is made again"
            ) from error
        return Reused(
            *(
                np.concatenate([getattr(part, name) for part in parts])
                for name in ("places", "log_odds", "num_tokens", "truncated")
            )
        )

    def _read(self, name: str, wanted: Any) -> Iterator[pa.Table]:
        """The row groups of a bucket that may hold some hashes, a bounded number at a time."""
        with (
            self.storage.open_input(name) as source,
            pq.ParquetFile(source, page_checksum_verification=True) as file,
        ):
            data = bytes.fromhex(file.schema_arrow.metadata[_FIRSTS].decode())
            firsts = [data[i : i + NUM_BYTES] for i in range(0, len(data), NUM_BYTES)]
            groups = {bisect_right(firsts, value) - 1 for value in wanted.to_pylist()}
            needed = sorted(group for group in groups if group >= 0)
            for start in range(0, len(needed), _GROUPS_AT_A_TIME):
                yield file.read_row_groups(needed[start : start + _GROUPS_AT_A_TIME])
