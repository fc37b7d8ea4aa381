"""Which caller does what next: several threads share one session and the fronts in memory."""

from __future__ import annotations

import threading
from collections.abc import Sequence
from dataclasses import dataclass

from shardrank.engine.prefixes import Group
from shardrank.engine.session import Past
from shardrank.types import Int64Array


@dataclass(frozen=True, slots=True)
class Work:
    """One thing to do: compute a group's front (batch is None), or score a batch after it.

    num_tokens: what it holds in memory while it is done, the front counted.
    """

    group: Group
    batch: Int64Array | None
    past: Past | None
    num_tokens: int


class Schedule:
    """Hands out work to callers; safe to use from several threads.

    A batch whose front is ready goes before a front that is not, so that no more fronts are in
    memory than there are callers. max_tokens bounds what all callers together have in hand: a
    prompt that is longer waits until it is alone.
    """

    def __init__(self, groups: Sequence[Group], lengths: Int64Array, max_tokens: int) -> None:
        self._lengths = lengths
        self._max_tokens = max_tokens
        self._closed = list(reversed(groups))
        self._open: list[Work] = []
        self._num_in_hand = 0
        self._num_tokens_in_hand = 0
        self._stopped = False
        self._changed = threading.Condition()

    def take(self) -> Work | None:
        """The next piece of work, as soon as there is room for it; None when all is done."""
        with self._changed:
            while not self._stopped:
                work = self._next()
                if work is None and not self._num_in_hand:
                    return None
                if work is not None and self._has_room(work):
                    self._remove(work)
                    self._num_in_hand += 1
                    self._num_tokens_in_hand += work.num_tokens
                    return work
                self._changed.wait()
        return None

    def finish(self, work: Work, past: Past | None = None) -> None:
        """Say that a piece of work is done; past: the front, if it was to compute one."""
        with self._changed:
            self._num_in_hand -= 1
            self._num_tokens_in_hand -= work.num_tokens
            if work.batch is None:
                self._offer(work.group, past)
            self._changed.notify_all()

    def stop(self) -> None:
        """Let every caller end after what it has in hand."""
        with self._changed:
            self._stopped = True
            self._changed.notify_all()

    def _next(self) -> Work | None:
        if self._open:
            return self._open[0]
        if not self._closed:
            return None
        group = self._closed[-1]
        if group.num_shared:
            return Work(group, None, None, group.num_shared)
        self._closed.pop()
        self._offer(group, None)
        return self._open[0]

    def _offer(self, group: Group, past: Past | None) -> None:
        for batch in group.batches:
            longest = int(self._lengths[batch].max())
            self._open.append(Work(group, batch, past, longest * len(batch)))

    def _remove(self, work: Work) -> None:
        if work.batch is None:
            self._closed.pop()
        else:
            self._open.pop(0)

    def _has_room(self, work: Work) -> bool:
        return (
            not self._num_in_hand or self._num_tokens_in_hand + work.num_tokens <= self._max_tokens
        )
