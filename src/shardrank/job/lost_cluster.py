"""A Ray cluster that is gone: said so, with our own exit code, before Ray ends the process itself.

A minute after it lost the cluster's head (gcs_rpc_server_reconnect_timeout_s), and ten seconds
after the daemon of its own node died, Ray ends the driver with exit code 1 and no message. Its
calls may hang until then, its own shutdown too.
"""

from __future__ import annotations

import os
import socket
import sys
import threading
import time
from collections.abc import Callable
from typing import Literal

from shardrank.errors import IncompleteError, ShardrankError
from shardrank.job.stopping import stop_main_thread

SILENT_SECONDS = 40.0
"""After which a cluster counts as lost: a head that is started anew may be back by then."""
_NUM_REFUSALS = 2
"""By this machine itself, after which the daemon that had the port is dead."""
_ENDING_SECONDS = 4.0
_POLL_SECONDS = 1.0

Farewell = Callable[[ShardrankError], None]


class ClusterWatch:
    """A thread that looks whether the cluster's head and this node's daemon still take connections.

    head, node: their addresses, HOST:PORT.
    farewell: what is still to be done where the main thread hangs, but not with Ray.
    is_lost: whether the cluster was given up; the main thread then gets IncompleteError. Where it
    hangs in a call to Ray, the process is ended with that error's message and exit code.
    """

    def __init__(self, head: str, node: str, farewell: Farewell) -> None:
        self.is_lost = False
        self._head, self._node, self._farewell = head, node, farewell
        self._is_left = False
        self._ends = threading.Event()
        threading.Thread(target=self._watch, name="cluster", daemon=True).start()

    def leave(self) -> None:
        """The main thread came out of Ray after the loss, and says itself how it went."""
        self._is_left = True

    def close(self) -> None:
        """Look no more: the connection is about to be closed."""
        self._ends.set()

    def _watch(self) -> None:
        lost = self._wait_for_loss()
        if lost is None:
            return
        self.is_lost = True
        error = IncompleteError(
            f"the Ray cluster at {self._head} was lost: {lost}; the same command again, on a "
            "cluster that runs, goes on from the last committed unit"
        )
        stop_main_thread(error)
        time.sleep(_ENDING_SECONDS)
        if self._is_left:
            time.sleep(_ENDING_SECONDS)  # for its last words
        else:
            self._farewell(error)
            sys.stderr.write(f"\nshardrank: {error}\n")
        os._exit(error.exit_code)

    def _wait_for_loss(self) -> str | None:
        """What was lost; None once there is no need to look."""
        heard, num_refusals = time.monotonic(), 0
        while True:
            if self._ends.wait(_POLL_SECONDS):
                return None
            num_refusals = num_refusals + 1 if answer(self._node) == "refused" else 0
            if num_refusals >= _NUM_REFUSALS:
                return "Ray's daemon on this node (raylet) died, perhaps for lack of memory"
            if answer(self._head) == "accepted":
                heard = time.monotonic()
            if time.monotonic() - heard > SILENT_SECONDS:
                return f"its head did not answer for {SILENT_SECONDS:g} seconds"


def answer(address: str) -> Literal["accepted", "refused", "silent"]:
    """What comes of an attempt to connect to HOST:PORT."""
    host, _, port = address.rpartition(":")
    try:
        socket.create_connection((host, int(port)), timeout=_POLL_SECONDS).close()
    except ConnectionRefusedError:
        return "refused"
    except OSError:
        return "silent"
    return "accepted"
