"""Units in, receipts out: three stages of Ray Data, one unit = one row = one block.

The settings and their reasons: an exception in a stage must not end the job (max_errored_blocks);
blocks must be neither split nor merged (target_max_block_size, override_num_blocks, batch_size=1);
a unit that was lost with its actor is left to the next pass (max_task_retries): otherwise it would
wait for that one, which starts again only where a node has room for it; a shard that kills its
reader must not be read for ever, as it is by default (max_retries).
"""

from __future__ import annotations

import json
import threading
import time
import warnings
from collections.abc import Iterator, Sequence
from contextlib import closing, contextmanager
from functools import partial
from itertools import pairwise
from typing import Any

import ray
from ray.data import ActorPoolStrategy, DataContext

from shardrank.job import worker
from shardrank.job.cluster import SMALL_TASK_CPUS, Shape, free_actors
from shardrank.job.drain import RemoteBrake
from shardrank.job.lost_tasks import told_in_one_line
from shardrank.job.parcel import Order
from shardrank.job.spec import JobSpec
from shardrank.types import Receipt, Unit

RETRIES_OF_SMALL_TASKS = 3
"""Within one pass, where the process that reads or writes died. By default there is no end to it,
and a shard that kills its reader would hold up everything."""
UNITS_PER_EXECUTION = 50_000
"""More of them go through Ray Data in waves: it keeps something of each block until the end."""
TASKS_IN_FLIGHT = 2
"""Per actor: with one the pool never grows, and the actor waits for its next unit."""

_THREADS_SECONDS = 3.0
_SLEEPS_FOR_GOOD = "Prefetcher"


def run_units(
    spec: JobSpec,
    orders: Sequence[Order],
    shape: Shape,
    no_progress_seconds: int,
    brake: RemoteBrake,
) -> Iterator[Receipt]:
    """Score and commit units; one receipt each as they finish, in no particular order.

    brake: asked before a unit begins.

    A unit whose process died, or that Ray gave up, has no receipt: the caller compares with the
    store, which is the only truth.
    """
    if len(orders) > UNITS_PER_EXECUTION:
        for wave in waves(orders, UNITS_PER_EXECUTION):
            yield from run_units(spec, wave, shape, no_progress_seconds, brake)
        return
    free_actors()
    rows = [order.to_row() for order in orders]
    with _data_context(no_progress_seconds), told_in_one_line():
        one_row: dict[str, Any] = {"batch_size": 1, "batch_format": "pyarrow"}
        small = {
            **one_row,
            "resources": dict(shape.task_resources),
            "max_retries": RETRIES_OF_SMALL_TASKS,
        }
        dataset = ray.data.from_items(rows, override_num_blocks=len(rows))
        dataset = dataset.map_batches(
            partial(worker.read, spec=spec, brake=brake), num_cpus=SMALL_TASK_CPUS, **small
        )
        dataset = dataset.map_batches(
            worker.Scorer,
            fn_constructor_args=(spec, brake),
            compute=ActorPoolStrategy(
                min_size=shape.min_actors,
                max_size=shape.max_actors,
                max_tasks_in_flight_per_actor=TASKS_IN_FLIGHT,
            ),
            num_cpus=shape.num_cpus,
            num_gpus=shape.num_gpus or None,
            resources=dict(shape.resources),
            max_restarts=-1,
            max_task_retries=0,
            **one_row,
        )
        dataset = dataset.map_batches(
            partial(worker.write, spec=spec), num_cpus=SMALL_TASK_CPUS, **small
        )
        batches = iter(dataset.iter_batches(**one_row, prefetch_batches=0))
        with closing(batches):
            for batch in batches:
                yield Receipt.from_dict(json.loads(batch["receipt"][0].as_py()))


def largest_first(units: Sequence[Unit]) -> list[Unit]:
    """Units of unknown size, then the large ones, so that what is left for the end is small."""
    unknown = float("inf")
    return sorted(
        units, key=lambda unit: unknown if unit.num_pairs is None else unit.num_pairs, reverse=True
    )


def waves(orders: Sequence[Order], most: int) -> Iterator[Sequence[Order]]:
    """All orders, in their order, in as few waves as hold that many, and about equally many."""
    num_waves = -(-len(orders) // most)
    bounds = [len(orders) * number // num_waves for number in range(num_waves + 1)]
    return (orders[start:stop] for start, stop in pairwise(bounds))


@contextmanager
def _data_context(no_progress_seconds: int) -> Iterator[None]:
    """Ray Data's settings for our datasets, put back for whoever else uses this process."""
    context = DataContext.get_current()
    ours = {
        "target_max_block_size": None,
        "max_errored_blocks": -1,
        "enable_progress_bars": False,
        "print_on_execution_start": False,
        "actor_init_retry_on_errors": True,
        "max_consecutive_actor_init_deaths": 3,
        "execution_no_progress_timeout_s": no_progress_seconds,
    }
    before = {name: getattr(context, name) for name in ours}
    threads = set(threading.enumerate())
    for name, value in ours.items():
        setattr(context, name, value)
    try:
        with warnings.catch_warnings():
            # No named parameter exists yet for max_restarts and max_task_retries.
            warnings.filterwarnings("ignore", message=".*ray_remote_args.*deprecated")
            # A pass may have nothing to score, where all its readers die.
            warnings.filterwarnings("ignore", message="The minimum number of concurrent actors")
            yield
    finally:
        for name, value in before.items():
            setattr(context, name, value)
        # One of Ray Data's that still asks for a block after ray.shutdown() would have Ray's core
        # end the process there and then, with exit code 1.
        deadline = time.monotonic() + _THREADS_SECONDS
        for thread in set(threading.enumerate()) - threads:
            # Threads of other languages, which cannot be joined, are of another type.
            if type(thread) is threading.Thread and thread.name != _SLEEPS_FOR_GOOD:
                thread.join(max(0.0, deadline - time.monotonic()))
