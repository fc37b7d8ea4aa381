import os
import socket
from collections import defaultdict
from contextlib import suppress
from pathlib import Path

import pytest
import ray

from shardrank.config import load_config
from shardrank.job.cluster import SMALL_TASK_CPUS, Shape, pool_warning, shape_of

REQUIRED = ["input.path=in", "output.path=out", "model.path=demo"]


def node(**resources: float) -> dict[str, object]:
    return {"Alive": True, "Resources": resources}


def shape(nodes: list[dict[str, object]], *settings: str, num_units: int = 100) -> Shape:
    return shape_of(load_config(None, [*REQUIRED, *settings]), nodes, num_units)


def test_one_actor_a_node_computes_on_every_core() -> None:
    assert shape([node(CPU=8)]) == Shape(1, 1, num_cpus=7.001, num_gpus=0, threads=8)


@pytest.mark.parametrize("cores", [2, 3, 4, 8, 96])
def test_beside_an_actor_two_small_tasks_fit_and_no_second_actor(cores: int) -> None:
    """One that comes over from a lost node would leave nothing that could read or write."""
    found = shape([node(CPU=cores)])
    assert found.num_cpus + 2 * SMALL_TASK_CPUS <= cores < 2 * found.num_cpus


@pytest.mark.parametrize("cores", [4, 6, 8, 12, 64])
def test_a_node_that_holds_several_actors_has_no_room_for_one_more(cores: int) -> None:
    found = shape([node(CPU=2), node(CPU=cores)])
    num_here = found.max_actors - 1
    taken = num_here * found.num_cpus
    assert taken + 2 * SMALL_TASK_CPUS <= cores < taken + found.num_cpus


def test_a_single_core_is_shared_by_one_actor_and_one_small_task() -> None:
    found = shape([node(CPU=1)])
    assert (found.max_actors, found.threads) == (1, 1)
    assert found.num_cpus + SMALL_TASK_CPUS <= 1 < 2 * found.num_cpus


def test_every_node_of_a_cluster_gets_an_actor() -> None:
    assert shape([node(CPU=8)] * 3).max_actors == 3


def test_a_head_without_cpus_gets_none() -> None:
    assert shape([node(CPU=0), node(CPU=4)]) == Shape(1, 1, num_cpus=3.001, num_gpus=0, threads=4)


def test_every_gpu_gets_an_actor_that_holds_no_cpu() -> None:
    found = shape([node(CPU=16, GPU=4)] * 2, "cluster.gpus_per_actor=1")
    assert (found.max_actors, found.num_cpus, found.num_gpus) == (8, 0.0, 1.0)


def test_half_a_gpu_each_makes_two_actors_a_gpu() -> None:
    assert shape([node(CPU=16, GPU=1)], "cluster.gpus_per_actor=0.5").max_actors == 2


def test_there_are_never_more_actors_than_units() -> None:
    assert shape([node(CPU=8)] * 3, num_units=2).max_actors == 2


def test_settings_win() -> None:
    found = shape([node(CPU=8)], "cluster.cpus_per_actor=2", "cluster.min_actors=2")
    assert (found.min_actors, found.max_actors, found.num_cpus, found.threads) == (2, 3, 2, 2)


def test_custom_resources_say_which_nodes_hold_actors() -> None:
    nodes = [node(CPU=16, reader=1), node(CPU=8, scorer=2), node(CPU=8, scorer=1)]
    found = shape(nodes, "cluster.actor_resources={scorer = 1}", "cluster.cpus_per_actor=2")
    assert (found.max_actors, found.resources, found.threads) == (3, (("scorer", 1.0),), 2)


def test_a_pool_may_be_larger_than_the_nodes_that_are_there() -> None:
    """A cluster that grows from zero: the actors start as their nodes come."""
    settings = ("cluster.max_actors=9", "cluster.cpus_per_actor=8", "cluster.min_actors=1")
    found = shape([node(CPU=0)], *settings)
    assert (found.min_actors, found.max_actors, found.num_cpus, found.threads) == (1, 9, 8, 8)


def test_a_cluster_without_a_node_for_actors_is_warned_of() -> None:
    def warning(nodes: list[dict[str, object]], *settings: str) -> str | None:
        return pool_warning(load_config(None, [*REQUIRED, *settings]), nodes)

    gpus = "cluster.gpus_per_actor=1"
    assert "cluster.max_actors is not set" in (warning([node(CPU=8)], gpus) or "")
    assert "cluster.max_actors is not set" in (warning([node(CPU=0)]) or "")
    assert warning([node(CPU=8)], gpus, "cluster.max_actors=4") is None
    assert warning([node(CPU=8), node(GPU=1)], gpus) is None
    assert warning([node(CPU=8)]) is None


def test_two_cores_are_both_computed_on() -> None:
    assert shape([node(CPU=2)]) == Shape(1, 1, num_cpus=1.001, num_gpus=0, threads=2)


def test_a_dead_node_does_not_count() -> None:
    assert shape([node(CPU=8), {"Alive": False, "Resources": {"CPU": 8}}]).max_actors == 1


def descendants(pid: int) -> set[str]:
    """The processes below one."""
    children = defaultdict(set)
    for folder in Path("/proc").glob("[0-9]*"):
        with suppress(OSError):
            parent = (folder / "stat").read_text().rpartition(")")[2].split()[1]
            children[parent].add(folder.name)
    found, new = set(), children[str(pid)]
    while new:
        found |= new
        new = set().union(*(children[one] for one in new))
    return found


def listens_on(pid: str) -> list[str]:
    """The IPv4 and IPv6 addresses on which a process takes connections from others."""
    sockets = set()
    with suppress(OSError):
        sockets = {os.readlink(file) for file in Path(f"/proc/{pid}/fd").iterdir()}
    found = []
    for table in ("tcp", "tcp6"):
        for line in Path(f"/proc/net/{table}").read_text().splitlines()[1:]:
            _, local, _, state, *rest = line.split()
            if state == "0A" and f"socket:[{rest[5]}]" in sockets:
                # Words of the machine's own order; an IPv6 address may stand for an IPv4 one.
                words = bytes.fromhex(local.partition(":")[0])
                address = b"".join(words[at : at + 4][::-1] for at in range(0, len(words), 4))
                mapped = address.removeprefix(bytes(10) + b"\xff\xff")
                family = socket.AF_INET if len(mapped) == 4 else socket.AF_INET6
                found.append(socket.inet_ntop(family, mapped))
    return found


@pytest.mark.ray
@pytest.mark.usefixtures("cluster")
def test_a_cluster_of_our_own_is_not_open_to_the_network() -> None:
    assert ray.get_runtime_context().gcs_address.startswith("127.0.0.1:")
    assert [node["NodeManagerAddress"] for node in ray.nodes()] == ["127.0.0.1"]
    ours = {str(os.getpid()), *descendants(os.getpid())}
    found = [address for pid in ours for address in listens_on(pid)]
    assert len(found) > 3
    assert set(found) == {"127.0.0.1"}
