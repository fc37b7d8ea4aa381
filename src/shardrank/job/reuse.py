"""Scores of an earlier output: whether they can be taken, and the index through which they are.

The index is built once, by the first job that asks for it: in its driver where there are few
pairs, else on its cluster, shuffled into buckets by Ray Data, which spills to disk what does not
fit into memory.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from typing import Any

import numpy as np
import pyarrow as pa
import ray

from shardrank.config import Config
from shardrank.errors import ConfigError, InputError, OutputError, ShardrankError
from shardrank.job.quiet_data import quiet_data
from shardrank.job.tasks import cause_of
from shardrank.schema import PAIR_HASH
from shardrank.store.commits import SUCCESS_NAME
from shardrank.store.filesystem import Storage
from shardrank.store.pair_hash import from_arrow
from shardrank.store.pair_index import (
    INDEX_SCHEMA,
    PAIRS_PER_BUCKET,
    Buckets,
    PairIndex,
    write_bucket,
)
from shardrank.store.plan import PLAN_NAME, Plan, load_plan
from shardrank.store.results import Results

MAX_PAIRS_IN_HAND = 1 << 20
"""About 30 MB."""
_UNITS_PER_TASK = 16
_MAX_PARTITIONS = 200
_NUM_THREADS = 16


def find_earlier(
    config: Config, score_fields: Mapping[str, Any], output: Storage
) -> tuple[Storage | None, tuple[str, ...]]:
    """The earlier output to take scores from, and what should be said about it.

    None where the job reuses nothing: it was not asked to, or the earlier job had another score
    fingerprint, in which case a warning names what differs.

    Raises ConfigError if it is the job's own output, holds no job, or was written without
    output.pair_hash; InputError if it is not finished.
    """
    if config.scoring.reuse is None:
        return None, ()
    storage = Storage(config.scoring.reuse, "output")
    place = storage.display()
    one, other = f"{storage.location.rstrip('/')}/", f"{output.location.rstrip('/')}/"
    if one.startswith(other) or other.startswith(one):
        raise ConfigError(
            f"scoring.reuse = {place!r} and output.path lie in each other; a job cannot reuse what "
            "it writes, and goes on with it by itself"
        )
    plan = load_plan(storage)
    if plan is None:
        raise ConfigError(
            f"scoring.reuse = {place!r} is not the output of a job: it has no {PLAN_NAME}"
        )
    differing = [
        name
        for name in {**plan.score_fields, **score_fields}
        if plan.score_fields.get(name) != score_fields.get(name)
    ]
    if differing:
        return None, (
            f"nothing of {place} is reused: its scores are others ({', '.join(differing)} "
            f"{'differs' if len(differing) == 1 else 'differ'})",
        )
    if not plan.output_fields.get("output.pair_hash"):
        raise ConfigError(
            f"scoring.reuse = {place!r} was written without pair hashes; set output.pair_hash = "
            "true in the job that is to be reused, and in this one if the next is to reuse it"
        )
    if not storage.exists(SUCCESS_NAME):
        raise InputError(
            f"scoring.reuse = {place!r} is not finished (it has no {SUCCESS_NAME}); finish that "
            "job first, since what it still writes would be missed"
        )
    return storage, ()


def has_at_most(plan: Plan, most: int) -> bool:
    """Whether a plan is known to hold no more pairs."""
    pairs = [unit.num_pairs for unit in plan.units]
    return sum(num or 0 for num in pairs) <= most and None not in pairs


def ensure_index(
    storage: Storage,
    pairs_per_bucket: int = PAIRS_PER_BUCKET,
    max_pairs_in_hand: int = MAX_PAIRS_IN_HAND,
) -> PairIndex:
    """The index of a finished output, built now if it has none.

    max_pairs_in_hand: more than these are shuffled by Ray, which must be connected.

    Raises OutputError if the output cannot be read or written to.
    """
    found = PairIndex.load(storage)
    if found is not None:
        return found
    results = Results.open(storage.url)
    total = sum(footer["counts"]["pairs_out"] for footer in results.footers)
    unsplit = Buckets(max(1, -(-total // pairs_per_bucket)))
    build = _build_in_hand if total <= max_pairs_in_hand else _build_on_ray
    index = PairIndex(storage, build(results, unsplit, pairs_per_bucket))
    index.finish()
    return index


def _build_in_hand(results: Results, unsplit: Buckets, pairs_per_bucket: int) -> Buckets:
    with ThreadPoolExecutor(_NUM_THREADS, thread_name_prefix="reuse") as threads:
        parts = list(threads.map(partial(_pairs_of, results), results.numbers))
    pairs = pa.concat_tables([INDEX_SCHEMA.empty_table(), *(p.cast(INDEX_SCHEMA) for p in parts)])
    hashes = from_arrow(pairs[PAIR_HASH])
    counts = np.bincount(unsplit.numbers(hashes), minlength=unsplit.num)
    buckets = Buckets.of(counts, pairs_per_bucket)
    keys = buckets.keys(hashes)
    for key in np.unique(keys).tolist():
        write_bucket(results.storage, key, pairs.filter(pa.array(keys == key)))
    return buckets


def _build_on_ray(results: Results, unsplit: Buckets, pairs_per_bucket: int) -> Buckets:
    numbers = np.array_split(results.numbers, -(-len(results.numbers) // _UNITS_PER_TASK))
    tables: dict[str, Any] = {"batch_size": None, "batch_format": "pyarrow"}
    try:
        with quiet_data():
            # Held by Ray, on disk where memory is short: about 30 bytes a pair.
            pairs = (
                ray.data.from_items(
                    [{"numbers": part.tolist()} for part in numbers],
                    override_num_blocks=len(numbers),
                )
                .map_batches(
                    partial(_read, results=results),
                    batch_size=1,
                    batch_format="pyarrow",
                    num_cpus=1,
                )
                .materialize()
            )
            counted = pairs.map_batches(partial(_count, buckets=unsplit), **tables).take_all()
            counts = np.sum([np.frombuffer(row["counts"], np.int64) for row in counted], axis=0)
            buckets = Buckets.of(counts, pairs_per_bucket)
            receipts = (
                pairs.map_batches(partial(_add_key, buckets=buckets), **tables)
                .groupby("bucket", num_partitions=min(buckets.num_files, _MAX_PARTITIONS))
                .map_groups(partial(_write, storage=results.storage), batch_format="pyarrow")
                .take_all()
            )
    except Exception as error:
        found = cause_of(error)
        if found is not None:
            raise found from error
        raise
    num_read, num_written = int(counts.sum()), sum(json.loads(row["receipt"]) for row in receipts)
    if num_written != num_read:
        raise ShardrankError(
            f"{num_read - num_written:,} of {num_read:,} pairs were lost on the way into the index "
            f"of {results.storage.display()}; run the same command again"
        )
    return buckets


def _pairs_of(results: Results, number: int) -> pa.Table:
    pairs = results.scored_pairs(number, INDEX_SCHEMA.names).select(INDEX_SCHEMA.names)
    if pairs.column(PAIR_HASH).null_count:
        raise OutputError(
            f"{results.storage.display(results.name(number))} holds a pair without a hash; find "
            "out with `shardrank verify` what was changed"
        )
    return pairs


def _read(batch: pa.Table, results: Results) -> Iterator[pa.Table]:
    """The pairs of some units, one after the other: one is in memory at a time."""
    for number in batch["numbers"][0].as_py():
        yield _pairs_of(results, number)


def _count(batch: pa.Table, buckets: Buckets) -> pa.Table:
    numbers = buckets.numbers(from_arrow(batch[PAIR_HASH]))
    counts = np.bincount(numbers, minlength=buckets.num).astype(np.int64)
    return pa.table({"counts": pa.array([counts.tobytes()], pa.binary())})


def _add_key(batch: pa.Table, buckets: Buckets) -> pa.Table:
    keys = buckets.keys(from_arrow(batch[PAIR_HASH]))
    return batch.append_column("bucket", pa.array(keys, pa.int64()))


def _write(group: pa.Table, storage: Storage) -> pa.Table:
    write_bucket(storage, group["bucket"][0].as_py(), group.drop_columns(["bucket"]))
    return pa.table({"receipt": [json.dumps(group.num_rows)]})
