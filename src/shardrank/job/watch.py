"""What the driver remembers of the receipts of one execution."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Callable, Collection, Sequence
from typing import Any, TextIO

from shardrank.job.observers import Observer
from shardrank.job.progress import Progress, Standing
from shardrank.store.plan import Plan
from shardrank.types import Counts, Receipt


class Watch:
    """Receipts in; progress on a stream, and afterwards what was done and what failed.

    done: numbers of the units that were committed before this execution.
    tell: is given the standing now and then. observers: are told of each receipt.
    """

    def __init__(
        self,
        plan: Plan,
        done: Collection[int],
        stream: TextIO | None,
        *,
        tell: Callable[[Standing], None] | None = None,
        observers: Sequence[Observer] = (),
    ) -> None:
        pending = [unit.num_pairs for unit in plan.units if unit.number not in done]
        known = [pairs for pairs in pending if pairs is not None]
        self._progress: Progress | None = None
        if (stream is not None or tell is not None) and pending:
            self._progress = Progress(
                stream,
                total_units=len(plan.units),
                done_units=len(done),
                total_pairs=sum(known) if len(known) == len(pending) else None,
                tell=tell,
            )
        self._done = set(done)
        self._observers = observers
        self._failures: Counter[str] = Counter()
        self._messages: dict[str, str] = {}
        self._first_at = self._last_at = time.monotonic()
        self.num_done = 0
        self.counts = Counts()

    def begin(self) -> None:
        """The cluster is connected, and units begin to move."""
        for observer in self._observers:
            observer.begin()

    def add(self, receipt: Receipt) -> None:
        """Take one receipt in; a unit that is done already counts no second time."""
        if receipt.unit in self._done:
            # Its receipt comes again where a listing was stale, or a process was lost after it.
            return
        if receipt.outcome != "failed":
            self._done.add(receipt.unit)
        for observer in self._observers:
            observer.add(receipt)
        if self._progress is not None:
            self._progress.add(receipt)
        if receipt.outcome == "failed":
            self.lose(receipt.code or "unknown", receipt.message or "")
            return
        self._last_at = time.monotonic()
        if self.num_done == 0:
            # The first unit was at work before its receipt came, but not since the cluster began.
            self._first_at = self._last_at - receipt.seconds
        self.num_done += 1
        self.counts = Counts.total([self.counts, receipt.counts])

    def lose(self, code: str, message: str) -> None:
        """Remember a failure, of a unit or of a whole pass."""
        self._failures[code] += 1
        self._messages.setdefault(code, message)

    def close(self) -> None:
        """Leave the last line of progress standing."""
        if self._progress is not None:
            self._progress.close()

    @property
    def pairs_per_second(self) -> float:
        """From the start of the first unit that came back to the end of the last.

        Pairs that a cascade passes over are not counted.
        """
        num_pairs = self.counts.pairs_in - self.counts.pairs_passed_over
        return num_pairs / max(self._last_at - self._first_at, 1e-9)

    @property
    def failures(self) -> list[dict[str, Any]]:
        """Each kind of failure with how often it was met, and its first message."""
        return [
            {"code": code, "times": times, "message": self._messages[code]}
            for code, times in self._failures.most_common()
        ]

    def explain_missing(self, num_missing: int) -> str:
        """Why units are missing, as far as it is known, and what to do."""
        reasons = "; ".join(
            f"{failure['code']} ({failure['times']} times): {failure['message']}"
            for failure in self.failures[:3]
        )
        return (
            f"{num_missing} units are missing after the last attempt; "
            f"{reasons or 'their workers died without a word (out of memory?)'}. "
            "The same command again goes on with what is missing"
        )
