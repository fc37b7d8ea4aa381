"""SIGTERM is how clusters and schedulers say goodbye: leave in order, resumable, exit code 3."""

from __future__ import annotations

import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType

from shardrank.errors import IncompleteError, ShardrankError

TERMINATED = "terminated; the same command again goes on from the last committed unit"

_reasons: list[ShardrankError] = []
"""Why this process's main thread is to stop, where it was not SIGTERM from outside."""
_num_watched = 0
_noting: list[threading.Event] = []
"""Set by the first SIGTERM, in place of the end, while the work can still be brought in order."""


class _Terminated(BaseException):
    """Not an Exception, so that no library on the way takes it for one of its own failures."""


@contextmanager
def stops_on_sigterm() -> Iterator[None]:
    """Turn SIGTERM into IncompleteError for as long as this lasts.

    May be nested: Ray sets a handler of its own when it connects, and the inner one replaces it.
    Only the main thread may set handlers; elsewhere this does nothing.
    """
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    global _num_watched
    if not _num_watched:
        _reasons.clear()
    before = signal.signal(signal.SIGTERM, _terminate)
    _num_watched += 1
    try:
        yield
    except (_Terminated, SystemExit) as error:
        # Ray's handler, which is in force while Ray connects, exits with the signal's number.
        if isinstance(error, SystemExit) and error.code != signal.SIGTERM:
            raise
        # And its core, before that, sets an alarm that would end the process in three seconds.
        signal.alarm(0)
        raise (_reasons.pop() if _reasons else IncompleteError(TERMINATED)) from None
    finally:
        _num_watched -= 1
        signal.signal(signal.SIGTERM, before)


@contextmanager
def sigterm_is_noted() -> Iterator[threading.Event]:
    """Let the first SIGTERM set this event and no more; the second ends what is under way.

    Only for the main thread in stops_on_sigterm; elsewhere the event is never set.
    """
    noted = threading.Event()
    _noting.append(noted)
    try:
        yield noted
    finally:
        _noting.remove(noted)


def stop_main_thread(reason: ShardrankError) -> None:
    """End, from another thread, what the main thread does in stops_on_sigterm, with this error.

    Where it is not in there, nothing is done: it must ask by itself.
    """
    if _num_watched:
        _reasons.append(reason)
        # A real signal, since it also wakes a thread that waits for a lock.
        signal.pthread_kill(threading.main_thread().ident or 0, signal.SIGTERM)


def _terminate(number: int, frame: FrameType | None) -> None:
    if _noting and not _reasons and not _noting[-1].is_set():
        _noting[-1].set()
        return
    # Once is enough: a further one must not interrupt the cleaning up after the first.
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    raise _Terminated
