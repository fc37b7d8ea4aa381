"""The Ray cluster that a job runs on, and what of it each stage asks for."""

from __future__ import annotations

import gc
import logging
import math
import os
import sys
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass
from typing import Any

import ray
from ray._private import ray_constants

from shardrank.config import Config
from shardrank.errors import ConfigError, ShardrankError
from shardrank.job.last_words import LastWords
from shardrank.job.lost_cluster import ClusterWatch, Farewell

ENDED = (
    "shardrank: this process was ended from one moment to the next: by Ray, whose daemon on this "
    "node signed off, or by the system, perhaps for lack of memory; nothing that was committed is "
    "lost, and the same command again goes on from there"
)
"""What is said where nothing else can be."""
LOCAL = "local"
"""The address that means a cluster of our own on this machine."""
SMALL_TASK_CPUS = 0.45
"""What a reading or writing task asks for, so that two fit beside an actor. They wait for storage
more than they compute; but each that runs beside another is a process that takes seconds to start.
"""
_NO_ROOM_FOR_ANOTHER = 0.001
"""CPUs that an actor asks for beyond all but one: on a node of two cores a second one, come over
from a lost node, would otherwise fit, and nothing could read or write there any more."""


@dataclass(frozen=True, slots=True)
class Shape:
    """How many actors score, and with what.

    num_cpus, num_gpus, resources: what each asks Ray for; threads: what each computes with.
    task_resources: what a task that reads or writes asks for beside SMALL_TASK_CPUS.
    """

    min_actors: int
    max_actors: int
    num_cpus: float
    num_gpus: float
    threads: int
    resources: tuple[tuple[str, float], ...] = ()
    task_resources: tuple[tuple[str, float], ...] = ()


@contextmanager
def connected(address: str | None, farewell: Farewell = lambda error: None) -> Iterator[bool]:
    """A connection to a running cluster, or to one of this machine's own for as long as it lasts.

    Inside a Ray job (RAY_ADDRESS), or where `address` says so, a running cluster is taken; one that
    merely runs on this machine is not, since it may be somebody else's. Gives True for a cluster
    of our own, which has no more machines than this one.

    farewell: called with the error before the process is ended, where the cluster was lost and a
    call to Ray hangs for good.
    """
    if ray.is_initialized():
        yield False
        return
    try:
        is_own = _initialise(address)
    except Exception as error:  # Ray raises bare ones when its processes start too slowly
        where = f"the Ray cluster at {address}" if address else "the running Ray cluster"
        raise ShardrankError(
            f"cannot connect to {where}: {error}; see that it runs (`ray status`) and, if it asks "
            "for a token, set RAY_AUTH_MODE=token; or set cluster.address to local to use this "
            "machine alone"
        ) from error
    here = ray.get_runtime_context()
    words = LastWords(ENDED)

    def farewell_in_order(error: ShardrankError) -> None:
        words.take_back()
        farewell(error)

    watch = ClusterWatch(here.gcs_address, _daemon_of(here.get_node_id()), farewell_in_order)
    try:
        yield is_own
    finally:
        words.take_back()
        if watch.is_lost:
            watch.leave()  # without ray.shutdown(), which would hang
        else:
            watch.close()
            ray.shutdown()


def require_devices(config: Config, nodes: list[dict[str, Any]], *, is_own: bool) -> None:
    """Raise ConfigError where actors ask for what this machine lacks, instead of waiting for it.

    A cluster may still grow: there, waiting is right, up to cluster.no_progress_seconds.
    """
    for setting, key, wanted in (
        ("gpus_per_actor", "GPU", config.cluster.gpus_per_actor),
        ("cpus_per_actor", "CPU", config.cluster.cpus_per_actor or 0.0),
    ):
        most = max((node["Resources"].get(key, 0.0) for node in nodes), default=0.0)
        if is_own and wanted > most:
            raise ConfigError(
                f"cluster.{setting} = {wanted:g}, and Ray finds {most:g} {key}s on this machine; "
                "lower it, or run on a cluster that has them"
            )


def shape_of(config: Config, nodes: list[dict[str, Any]], num_units: int) -> Shape:
    """How many actors of what size, from the settings and the nodes (`ray.nodes()`).

    By default one actor a node (CPU) or a GPU (CUDA), and never more actors than units. On a CPU
    node the actor computes on every core but asks for about one less, which leaves room for the
    tasks that read and write. Where no node is there yet that could hold an actor, it computes on
    what it asks for.
    """
    alive = [node["Resources"] for node in nodes if node.get("Alive", True)]
    cluster, gpus = config.cluster, config.cluster.gpus_per_actor
    custom = cluster.actor_resources
    resources = [node for node in alive if _times(node, custom) > 0]
    if gpus > 0:
        num_cpus = cluster.cpus_per_actor or 0.0
        fitting = sum(min(_times(node, {"GPU": gpus}), _times(node, custom)) for node in resources)
        cores = max((int(node.get("CPU", 1)) for node in resources), default=1)
    else:
        unknown = math.ceil(cluster.cpus_per_actor or 1)
        cores = int(min((node["CPU"] for node in resources if node.get("CPU")), default=unknown))
        all_but_one = cores - 1 if cores > 1 else 0.5
        num_cpus = cluster.cpus_per_actor or all_but_one + _NO_ROOM_FOR_ANOTHER
        fitting = sum(
            min(_actors_on(node.get("CPU", 0.0), num_cpus), _times(node, custom))
            for node in resources
        )
    max_actors = cluster.max_actors or max(fitting, cluster.min_actors)
    max_actors = max(1, min(max_actors, num_units))
    actors_per_node = max(1, _actors_on(cores, num_cpus)) if num_cpus else 1
    return Shape(
        min_actors=min(cluster.min_actors, max_actors),
        max_actors=max_actors,
        num_cpus=num_cpus,
        num_gpus=gpus,
        threads=config.scoring.threads or max(1, cores // actors_per_node),
        resources=tuple(sorted(custom.items())),
        task_resources=tuple(sorted(cluster.task_resources.items())),
    )


def free_actors() -> None:
    """Let go of the actors of an earlier execution of Ray Data, and so of their CPUs and GPUs.

    Its objects hold handles of them in cycles, which are otherwise collected at some later time.
    """
    gc.collect()


def pool_warning(config: Config, nodes: list[dict[str, Any]]) -> str | None:
    """What to say of a cluster that holds no actor now, where nothing says how far to grow."""
    cluster = config.cluster
    if cluster.max_actors is not None:
        return None
    wanted = {**cluster.actor_resources}
    if cluster.gpus_per_actor:
        wanted["GPU"] = cluster.gpus_per_actor
    alive = [node["Resources"] for node in nodes if node.get("Alive", True)]
    if any(_times(node, wanted) > 0 and (wanted or node.get("CPU")) for node in alive):
        return None
    return (
        "no node of the cluster can hold an actor now, and cluster.max_actors is not set: the pool "
        f"will not grow beyond {cluster.min_actors}, however many nodes come"
    )


def _actors_on(cpus: float, num_cpus: float) -> int:
    """Actors that fit on a node beside at least one small task."""
    return math.floor(max(cpus - SMALL_TASK_CPUS, 0.0) / num_cpus)


def _times(node: Mapping[str, float], amounts: Mapping[str, float]) -> int:
    """How often a node has these amounts."""
    shares = [math.floor(node.get(name, 0.0) / amount) for name, amount in amounts.items()]
    return min(shares, default=sys.maxsize)


def _initialise(address: str | None) -> bool:
    # Ray Data announces every execution on stderr, and Ray's core warns that Ray Data keeps its
    # actors' constructor arguments in the object store; the job prints a line of its own.
    logging.getLogger("ray.data").setLevel(logging.ERROR)
    os.environ.setdefault("RAY_BACKEND_LOG_LEVEL", "fatal")
    # The store says what was done; a traceback for each task that died would only hide that.
    os.environ.setdefault("RAY_IGNORE_UNHANDLED_ERRORS", "1")
    # Ray Data would start an actor, and a thread that never ends, to count what it is used for.
    os.environ.setdefault("RAY_DATA_USAGE_DISABLED", "1")
    options: dict[str, Any] = {"log_to_driver": False, "logging_level": logging.ERROR}
    wanted = address or os.environ.get("RAY_ADDRESS") or LOCAL
    if wanted == LOCAL:
        options["include_dashboard"] = False
        # A cluster that nobody asked for by name must not report to Ray's makers.
        os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    with _stderr_held_back(), _on_loopback() if wanted == LOCAL else nullcontext():
        ray.init(address=wanted, **options)
    return wanted == LOCAL


def _daemon_of(node_id: str) -> str:
    """HOST:PORT of a node's raylet."""
    [node] = [node for node in ray.nodes() if node["NodeID"] == node_id]
    return f"{node['NodeManagerAddress']}:{node['NodeManagerPort']}"


@contextmanager
def _on_loopback() -> Iterator[None]:
    """Let a cluster of our own listen on 127.0.0.1 alone, and not on every address of the machine.

    Ray 2.60 has no public setting for it: it takes 127.0.0.1, even where it is asked for, for the
    machine's address in its network, except where this constant says that there is no network.
    """
    name = "ENABLE_RAY_CLUSTER"
    before = getattr(ray_constants, name, None)
    setattr(ray_constants, name, False)
    try:
        yield
    finally:
        setattr(ray_constants, name, before)


@contextmanager
def _stderr_held_back() -> Iterator[None]:
    """Keep what is written to file descriptor 2, by Ray's core too, and show it only on failure."""
    sys.stderr.flush()
    kept = os.dup(2)
    with tempfile.TemporaryFile() as held:
        os.dup2(held.fileno(), 2)
        try:
            yield
        except BaseException:
            held.seek(0)
            os.write(kept, held.read())
            raise
        finally:
            os.dup2(kept, 2)
            os.close(kept)
