"""Which caller does what next: several threads share one session and the fronts in memory."""

from __future__ import annotations

import threading
from collections.abc import Sequence
from dataclasses import dataclass

from shardrank.engine.prefixes import Group
from shardrank.engine.session import Past
from shardrank.types import Int64Array

MAX_FRONT_TOKENS, MAX_FRONT_TOKENS_PER_CALLER = 2048, 512
"""Of fronts that are computed together; they are kept, at 0.23 MB a token in the 0.6B shape."""


@dataclass(frozen=True, slots=True)
class Work:
    """One thing to do: compute the fronts of groups (batch is None), or score a batch after one.

    groups: one where there is a batch. num_tokens: what it holds in memory while it is done, the
        front counted.
    """

    groups: tuple[Group, ...]
    batch: Int64Array | None
    past: Past | None
    num_tokens: int


class Schedule:
    """Hands out work to callers; safe to use from several threads.

    A batch whose front is ready goes before a front that is not, so that no more fronts are in
    memory than callers compute at once: a caller's share of the groups, of a bounded number of
    tokens together, or one.
    max_tokens bounds what all callers together have in hand: a prompt that is longer waits until it
    is alone.
    """

    def __init__(
        self,
        groups: Sequence[Group],
        lengths: Int64Array,
        max_tokens: int,
        num_sharing: int = 0,
    ) -> None:
        """num_sharing: callers that compute several fronts at once; 0 for one after the other."""
        callers = max(1, num_sharing)
        self._max_fronts = -(-len(groups) // callers) if num_sharing else 1
        self._max_front_tokens = min(MAX_FRONT_TOKENS_PER_CALLER, MAX_FRONT_TOKENS // callers)
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

    def finish(self, work: Work, pasts: Sequence[Past | None] = ()) -> None:
        """Say that a piece of work is done; pasts: the fronts, if it was to compute them."""
        with self._changed:
            self._num_in_hand -= 1
            self._num_tokens_in_hand -= work.num_tokens
            if work.batch is None:
                for group, past in zip(work.groups, pasts, strict=True):
                    self._offer(group, past)
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
        if not self._closed[-1].num_shared:
            self._offer(self._closed.pop(), None)
            return self._open[0]
        groups: list[Group] = []
        num_tokens = 0
        for group in reversed(self._closed[-self._max_fronts :]):
            is_full = num_tokens + group.num_shared > self._max_front_tokens
            if groups and (is_full or not group.num_shared):
                break
            groups.append(group)
            num_tokens += group.num_shared
        return Work(tuple(groups), None, None, num_tokens)

    def _offer(self, group: Group, past: Past | None) -> None:
        for batch in group.batches:
            longest = int(self._lengths[batch].max())
            self._open.append(Work((group,), batch, past, longest * len(batch)))

    def _remove(self, work: Work) -> None:
        if work.batch is None:
            del self._closed[-len(work.groups) :]
        else:
            self._open.pop(0)

    def _has_room(self, work: Work) -> bool:
        return (
            not self._num_in_hand or self._num_tokens_in_hand + work.num_tokens <= self._max_tokens
        )
