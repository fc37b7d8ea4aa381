"""Who else than the progress line is told of receipts: Prometheus, and a log of JSON lines."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Collection
from dataclasses import asdict
from typing import Protocol

from shardrank.job.metrics import Meters
from shardrank.job.progress import Standing, render
from shardrank.store.plan import Plan
from shardrank.types import Receipt

logger = logging.getLogger(__name__)


class Observer(Protocol):
    """Is told when units begin to move, and of each receipt."""

    def begin(self) -> None:
        """The cluster is connected; nothing was done yet but what needed none."""
        ...

    def add(self, receipt: Receipt) -> None:
        """A unit came back."""
        ...


class DriverMeters:
    """The driver's metrics. done: numbers of the units that were committed before."""

    def __init__(
        self,
        meters: Meters,
        plan: Plan,
        done: Collection[int],
        clock: Callable[[], float] = time.time,
    ) -> None:
        self._meters = meters
        self._clock = clock
        self._num_units = len(plan.units)
        self._num_done = len(done)
        known = [unit.num_pairs for unit in plan.units if unit.num_pairs is not None]
        self._num_pairs = sum(known) if len(known) == len(plan.units) else 0

    def begin(self) -> None:
        """Show what is planned, so that a job that never moves shows too."""
        self._meters.show("shardrank_planned_units", self._num_units)
        self._meters.show("shardrank_planned_pairs", self._num_pairs)
        self._show_progress()

    def add(self, receipt: Receipt) -> None:
        """Count a receipt."""
        meters = self._meters
        meters.count("shardrank_units", 1, outcome=receipt.outcome)
        if receipt.outcome != "failed":
            self._num_done += 1
        meters.count("shardrank_pairs", receipt.counts.pairs_in)
        meters.count("shardrank_tokens", receipt.counts.tokens)
        self._show_progress()

    def _show_progress(self) -> None:
        self._meters.show("shardrank_done_units", self._num_done)
        self._meters.show("shardrank_progress_timestamp_seconds", self._clock())


class ReceiptLog:
    """One JSON line for each receipt. job: what this execution is called."""

    def __init__(self, job: str) -> None:
        self._job = job

    def begin(self) -> None:
        """The units begin to move."""
        logger.info("units begin to move", extra={"job": self._job})

    def add(self, receipt: Receipt) -> None:
        """Log a receipt, as an error where nothing was committed."""
        level = logging.INFO if receipt.outcome == "committed" else logging.WARNING
        counts = receipt.counts
        logger.log(
            level,
            "%s",
            receipt.outcome,
            extra={
                "job": self._job,
                "unit": f"{receipt.unit:06d}",
                "worker": receipt.worker or None,
                "pairs": counts.pairs_in,
                "tokens": counts.tokens,
                "pairs_rejected": counts.pairs_rejected,
                "seconds_read": round(receipt.seconds_read, 3),
                "seconds_score": round(receipt.seconds_score, 3),
                "seconds_write": round(receipt.seconds_write, 3),
                "code": receipt.code,
                "reason": receipt.message,
            },
        )

    def tell(self, standing: Standing) -> None:
        """Log how far the job is."""
        extra = {"job": self._job, **asdict(standing), "seconds_left": standing.seconds_left}
        logger.info("%s", render(standing).strip(), extra=extra)
