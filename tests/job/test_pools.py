"""Nodes of different kinds, that come and go while a job runs.

Three Ray nodes on this machine: a head without CPUs, one that reads and writes, one that scores.
Custom resources stand for the GPUs of a real pool.
"""

from __future__ import annotations

import json
import os
import time
from collections import defaultdict
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from commands import start_shardrank
from ray_nodes import OPEN, Nodes
from shardrank.store.filesystem import Storage
from shardrank.store.verify import verify
from tables import row, write_nested

pytestmark = pytest.mark.ray

SCORER = {"num_cpus": 1, "resources": {"scorer": 1}}
SETTINGS = (
    "units.pairs=96",
    "cluster.actor_resources={scorer = 1}",
    "cluster.task_resources={reader = 0.01}",
    "cluster.cpus_per_actor=0.5",
    "cluster.max_actors=2",
    "logging.format=json",
)


@pytest.fixture
def nodes() -> Iterator[Nodes]:
    nodes = Nodes()
    yield nodes
    nodes.close()


def committed_by(lines: Iterator[str]) -> Iterator[str]:
    """The scorer of each unit that is committed, as the job's log tells it."""
    for line in lines:
        event = json.loads(line) if line.startswith("{") else {}
        if event.get("message") == "committed":
            yield event["worker"]


def nodes_of_stages(session: Path) -> dict[str, set[str]]:
    """Which nodes did what, from the logs of the workers."""
    found = defaultdict(set)
    for file in (session / "logs").glob("worker-*.err"):
        for line in file.read_text().splitlines():
            if line.startswith('{"time"'):
                event: dict[str, Any] = json.loads(line)
                found[event["message"]].add(event["node"])
    return found


def test_a_pool_grows_from_zero_keeps_its_kinds_apart_and_loses_a_node(
    nodes: Nodes, tmp_path: Path
) -> None:
    """The job begins while there is only a head; its actors start as nodes come."""
    # Scoring takes longer than reading and writing: little that is scored waits to be written.
    rows = [row(i, 24) for i in range(1200)]
    write_nested(tmp_path / "in" / "a.parquet", rows, row_group_size=50)
    output = f"{tmp_path}/out"
    job = start_shardrank(
        *("rerank", "--input", f"{tmp_path}/in", "--output", output, "--model", "demo"),
        *("--set", f"cluster.address={nodes.address}"),
        *(part for setting in SETTINGS for part in ("--set", setting)),
        **OPEN,
    )
    try:
        lines = iter(job.stdout.readline, "")
        assert any("units begin to move" in line for line in lines)
        reader = nodes.add(num_cpus=2, resources={"reader": 1})
        first = nodes.add(**SCORER)
        scorers = committed_by(lines)
        one = next(scorers)
        assert [next(scorers) for _ in range(20)] == [one] * 20

        added = time.monotonic()
        second = nodes.add(**SCORER)
        other = next(scorer for scorer in scorers if scorer != one)
        seconds_to_use = time.monotonic() - added

        nodes.remove(first)
        after = list(scorers)
        job.wait(timeout=120)
    finally:
        job.kill()
    assert job.returncode == 0
    print(f"a new node was used after {seconds_to_use:.1f} s")
    assert seconds_to_use < 60
    assert other in after[-20:]
    assert one not in after[-20:]
    repeated = [name for name in os.listdir(f"{output}/_shardrank/attempts") if "-1." not in name]
    # Two that its actor held, and what lay on the node until the driver had it written.
    assert len(repeated) <= 12, "more was done again than the lost node held"
    assert verify(f"{tmp_path}/in", Storage(output, "output")).problems == ()
    places = nodes_of_stages(first.session)
    assert places["score"] == {first.node_id, second.node_id}
    assert places["read"] | places["write"] == {reader.node_id}
