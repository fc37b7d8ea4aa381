"""One function over many small items: threads on this machine, or tasks of a Ray cluster."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from itertools import islice
from typing import Any, TypeVar

from shardrank.errors import ShardrankError

Item = TypeVar("Item")
Result = TypeVar("Result")
_TASKS_PER_CPU = 2


def each(
    function: Callable[[Item], Result], items: Iterable[Item], address: str | None = None
) -> Iterator[Result]:
    """Call a function with each item; the results as they come, in no particular order.

    address: a Ray cluster's, as cluster.address; None for threads of this process, unless this is
    a Ray job. A bounded number is under way at any time.

    Raises what the function raises.
    """
    address = address or os.environ.get("RAY_ADDRESS")
    if address is None:
        yield from _in_threads(function, items)
    else:
        yield from _on_cluster(function, items, address)


def _in_threads(function: Callable[[Item], Result], items: Iterable[Item]) -> Iterator[Result]:
    num_threads = os.cpu_count() or 1
    rest = iter(items)
    with ThreadPoolExecutor(num_threads) as threads:
        running: set[Future[Result]] = set()
        try:
            while True:
                room = num_threads * _TASKS_PER_CPU - len(running)
                running |= {threads.submit(function, item) for item in islice(rest, room)}
                if not running:
                    return
                done, running = wait(running, return_when=FIRST_COMPLETED)
                for future in done:
                    yield future.result()
        finally:
            for future in running:
                future.cancel()


def _call(function: Callable[[Item], Result], item: Item) -> Result:
    """What Ray runs: it takes plain functions only, not partial ones."""
    return function(item)


def _on_cluster(
    function: Callable[[Item], Result], items: Iterable[Item], address: str
) -> Iterator[Result]:
    import ray

    from shardrank.job.cluster import connected

    with connected(address):
        task: Any = ray.remote(num_cpus=1, max_retries=3)(_call)
        most = max(1, int(ray.cluster_resources().get("CPU", 1))) * _TASKS_PER_CPU
        rest = iter(items)
        running: list[Any] = []
        while True:
            running += [task.remote(function, item) for item in islice(rest, most - len(running))]
            if not running:
                return
            done, running = ray.wait(running, num_returns=1)
            try:
                yield ray.get(done[0])
            except ray.exceptions.RayTaskError as error:
                if isinstance(error.cause, ShardrankError):
                    raise error.cause from None
                raise


def cause_of(error: BaseException | None) -> ShardrankError | None:
    """Our own error inside Ray's, if there is one."""
    while error is not None:
        if isinstance(error, ShardrankError):
            return error
        inside = getattr(error, "cause", None)
        error = inside if isinstance(inside, BaseException) else error.__cause__
    return None
