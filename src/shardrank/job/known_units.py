"""Units of which every pair has an earlier score: the driver does them, before there is a cluster.

They are read, looked up and written in less time than a cluster takes to start.
"""

from __future__ import annotations

import threading
from concurrent.futures import ThreadPoolExecutor

from shardrank.job.holding import Hold
from shardrank.job.opening import Job
from shardrank.job.reuse import MAX_PAIRS_IN_HAND, has_at_most
from shardrank.job.watch import Watch
from shardrank.job.worker import write_known
from shardrank.store.pair_index import PairIndex
from shardrank.store.plan import load_plan
from shardrank.types import Receipt, Unit

MAX_PAIRS = 1 << 18
"""Some 10 s of work, or of waiting for a store; from there on the cores of a cluster pay."""
_NUM_THREADS = 8


def needs_no_cluster(job: Job) -> bool:
    """Whether the driver may try the job's units itself.

    The job reuses scores, is small, and has an index of them or can make one without a cluster. It
    is new: where an execution died of what it read, the next must leave that to processes that may.
    """
    if not job.is_new or job.earlier is None or not has_at_most(job.plan, MAX_PAIRS):
        return False
    if PairIndex.load(job.earlier) is not None:
        return True
    earlier = load_plan(job.earlier)
    return earlier is not None and has_at_most(earlier, MAX_PAIRS_IN_HAND)


def do_known_units(job: Job, watch: Watch, hold: Hold) -> None:
    """Do units until one has a pair to score: all others are left to the cluster with it.

    Raises OutputBusyError if somebody else has taken over.
    """
    spec = job.spec(threads=1)
    ends = threading.Event()

    def do(unit: Unit) -> Receipt | None:
        if ends.is_set():
            return None
        receipt = write_known(unit, spec)
        if receipt is None:
            ends.set()
        return receipt

    with ThreadPoolExecutor(_NUM_THREADS, thread_name_prefix="known") as threads:
        try:
            for receipt in threads.map(do, job.plan.units):
                hold.require()
                if receipt is not None:
                    watch.add(receipt)
        finally:
            ends.set()
