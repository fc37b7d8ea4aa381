"""A Ray cluster of several nodes on this machine, without tokens, in a process of its own.

What a process once knew of Ray's tokens it keeps, so a cluster that is begun after another one in
the same process may ask for a token that nobody was given.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

OPEN = {"RAY_AUTH_MODE": "disabled"}
"""What whoever connects needs in its environment."""


@dataclass(frozen=True)
class Node:
    """number: by which it is removed. session: the folder of its logs."""

    number: int
    node_id: str
    session: Path


class Nodes:
    """The head is there at once, and has no CPUs."""

    def __init__(self) -> None:
        environment = {**os.environ, **OPEN}
        environment.pop("RAY_ADDRESS", None)
        self._process = subprocess.Popen(
            [sys.executable, __file__],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            text=True,
            env=environment,
        )
        self.address: str = self._ask({})["address"]

    def add(self, **options: Any) -> Node:
        """Another node, as ray.cluster_utils.Cluster.add_node takes it."""
        found = self._ask({"add": options})
        return Node(found["number"], found["node_id"], Path(found["session"]))

    def remove(self, node: Node) -> None:
        """As if its power was cut."""
        self._ask({"remove": node.number})

    def close(self) -> None:
        """The end of all nodes."""
        assert self._process.stdin is not None
        self._process.stdin.close()
        self._process.wait(timeout=60)

    def _ask(self, question: dict[str, Any]) -> dict[str, Any]:
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._process.stdin.write(json.dumps(question) + "\n")
        self._process.stdin.flush()
        answer: dict[str, Any] = json.loads(self._process.stdout.readline())
        return answer


def _serve() -> None:
    """Do what the lines of standard input ask for."""
    # What Ray itself prints goes elsewhere.
    answers = os.fdopen(os.dup(1), "w", buffering=1)
    os.dup2(2, 1)
    from ray.cluster_utils import Cluster

    head = {"num_cpus": 0, "include_dashboard": False}
    cluster = Cluster(initialize_head=True, head_node_args=head)
    nodes: list[Any] = []
    for line in sys.stdin:
        question = json.loads(line)
        answer: dict[str, Any] = {"address": cluster.address}
        if "add" in question:
            node = cluster.add_node(**question["add"])
            answer = {
                "number": len(nodes),
                "node_id": node.node_id,
                "session": node.get_session_dir_path(),
            }
            nodes.append(node)
        if "remove" in question:
            cluster.remove_node(nodes[question["remove"]], allow_graceful=False)
        answers.write(json.dumps(answer) + "\n")
    cluster.shutdown()


if __name__ == "__main__":
    _serve()
