"""A node that is gone in mid-run costs time: with one in its place, or with those that are left."""

import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from commands import shardrank, start_shardrank
from ray_nodes import OPEN, Node, Nodes
from tables import row, write_nested

pytestmark = pytest.mark.ray

NUM_UNITS = 40
CPUS = {"num_cpus": 2}


@pytest.fixture
def nodes() -> Iterator[tuple[Nodes, list[Node]]]:
    """A head without CPUs, and two nodes that work."""
    nodes = Nodes()
    yield nodes, [nodes.add(**CPUS) for _ in range(2)]
    nodes.close()


def wait_for_units(output: Path, number: int, job: subprocess.Popen[str]) -> None:
    deadline = time.monotonic() + 200
    while len(list(output.glob("*.parquet"))) < number:
        assert job.poll() is None, job.communicate()[0]
        assert time.monotonic() < deadline
        time.sleep(0.02)


@pytest.mark.parametrize("is_replaced", [True, False], ids=["replaced", "not replaced"])
def test_a_lost_node_costs_no_unit(
    nodes: tuple[Nodes, list[Node]], tmp_path: Path, is_replaced: bool
) -> None:
    cluster, workers = nodes
    rows = [row(number, 24) for number in range(NUM_UNITS)]
    write_nested(tmp_path / "in" / "a.parquet", rows, row_group_size=1)
    output = tmp_path / "out"
    command = ["rerank", "--input", str(tmp_path / "in"), "--output", str(output)]
    settings = [f"cluster.address={cluster.address}", "units.pairs=24"]
    command += ["--model", "demo", *(part for one in settings for part in ("--set", one))]
    job = start_shardrank(*command, **OPEN)
    wait_for_units(output, 3, job)
    cluster.remove(workers[-1])
    assert len(list(output.glob("*.parquet"))) < NUM_UNITS, "too late to prove anything"
    if is_replaced:
        cluster.add(**CPUS)
    printed, _ = job.communicate(timeout=300)
    assert job.returncode == 0, printed
    assert f"{NUM_UNITS} of {NUM_UNITS} units by this run" in printed
    assert shardrank("verify", tmp_path / "in", output).returncode == 0
