"""The lease in a running job: taken before the work, renewed by a thread, released after it."""

from __future__ import annotations

import json
import logging
import os
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress

from shardrank.errors import OutputBusyError, OutputError
from shardrank.job.stopping import stop_main_thread
from shardrank.store.filesystem import Storage
from shardrank.store.holder import this_process
from shardrank.store.lease import Lease, acquire, busy

logger = logging.getLogger(__name__)

RENEWALS_PER_LEASE = 3
"""Two may fail, or be slow, before anybody takes over."""


class Hold:
    """A lease that is held, for as long as its thread renews it.

    superseded: why the work must stop, once somebody else has taken over.
    """

    def __init__(self, lease: Lease) -> None:
        self.superseded: OutputBusyError | None = None
        self._lease = lease
        self._ends = threading.Event()
        self._thread = threading.Thread(target=self._renew, name="lease", daemon=True)
        self._thread.start()

    def require(self) -> None:
        """Raise OutputBusyError if somebody else has taken over."""
        if self.superseded is not None:
            raise self.superseded

    def close(self) -> None:
        """Stop renewing, and release what is still held."""
        self._ends.set()
        self._thread.join()
        if self.superseded is None:
            # A lease that cannot be released runs out by itself.
            with suppress(OutputError):
                self._lease.release()

    def _renew(self) -> None:
        while not self._ends.wait(self._lease.seconds / RENEWALS_PER_LEASE):
            try:
                if not self._lease.renew():
                    self.superseded = busy(self._lease.storage)
            except OutputError as error:
                # The store may be back in time; the work goes on, since commits need no lease.
                logger.warning("the lease could not be renewed: %s", error)
            if self.superseded is not None:
                stop_main_thread(self.superseded)
                return


@contextmanager
def holding(output: Storage, seconds: float) -> Iterator[Hold]:
    """Hold the lease of an output. Raises OutputBusyError, naming the holder, if it is alive."""
    lease = Lease(output, this_process(ray_job_id()), seconds)
    acquire(lease, clock=time.monotonic, sleep=time.sleep)
    hold = Hold(lease)
    try:
        yield hold
    finally:
        hold.close()


def ray_job_id() -> str | None:
    """The id under which `ray job submit` runs this process."""
    config = json.loads(os.environ.get("RAY_JOB_CONFIG_JSON_ENV_VAR") or "{}")
    found = config.get("metadata", {}).get("job_submission_id")
    return None if found is None else str(found)
