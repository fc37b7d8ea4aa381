"""A Ray cluster that is gone: said so, with our own exit code, before Ray ends the process itself.

A minute after it lost the cluster's head, Ray ends the driver with exit code 1 and no message (its
gcs_rpc_server_reconnect_timeout_s). Its calls may hang until then, its own shutdown too.
"""

from __future__ import annotations

import os
import socket
import sys
import threading
import time
from collections.abc import Callable

from shardrank.errors import IncompleteError, ShardrankError
from shardrank.job.stopping import stop_main_thread

SILENT_SECONDS = 40.0
"""After which a cluster counts as lost: a head that is started anew may be back by then."""
_ENDING_SECONDS = 5.0
_POLL_SECONDS = 2.0

Farewell = Callable[[ShardrankError], None]


class ClusterWatch:
    """A thread that looks whether the cluster's head still takes connections.

    farewell: what is still to be done where the main thread hangs, but not with Ray.
    is_lost: whether it was given up; the main thread then gets IncompleteError. Where it hangs in a
    call to Ray, the process is ended with that error's message and exit code.
    """

    def __init__(self, address: str, farewell: Farewell) -> None:
        self.is_lost = False
        self._farewell = farewell
        self._host, _, port = address.rpartition(":")
        self._port = int(port)
        self._is_left = False
        self._ends = threading.Event()
        threading.Thread(target=self._watch, name="cluster", daemon=True).start()

    def leave(self) -> None:
        """The main thread needs the cluster no more, and says itself how it went."""
        self._is_left = True

    def close(self) -> None:
        """The connection is closed; nothing can hang any more."""
        self._ends.set()

    def _watch(self) -> None:
        heard = time.monotonic()
        while time.monotonic() - heard < SILENT_SECONDS:
            if self._ends.wait(_POLL_SECONDS):
                return
            if self._answers():
                heard = time.monotonic()
        self.is_lost = True
        error = IncompleteError(
            f"the Ray cluster at {self._host}:{self._port} was lost: its head did not answer for "
            f"{SILENT_SECONDS:g} seconds; the same command again, on a cluster that runs, "
            "goes on from the last committed unit"
        )
        stop_main_thread(error)
        if self._ends.wait(_ENDING_SECONDS):
            return
        if not self._is_left:
            self._farewell(error)
            sys.stderr.write(f"\nshardrank: {error}\n")
        os._exit(error.exit_code)

    def _answers(self) -> bool:
        try:
            socket.create_connection((self._host, self._port), timeout=_POLL_SECONDS).close()
        except OSError:
            return False
        return True
