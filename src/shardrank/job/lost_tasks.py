"""What Ray Data says of a task that was lost with its process: one line, without a traceback."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from contextlib import contextmanager

LOGGER_NAME = "ray.data._internal.execution.streaming_executor_state"
"""Of the module that counts the tasks that were lost, and says so."""


class _OneLine(logging.Filter):
    """Of a record with an exception its type and first line are kept, and no more.

    Frames of the traceback hold the actor that was lost. Where records are kept, by whatever
    collects logs, a restarted one would live on, and its CPUs be missing to the next pass.
    """

    def filter(self, record: logging.LogRecord) -> bool:
        error = record.exc_info[1] if record.exc_info else None
        if error is not None:
            reason = (str(error).strip().splitlines() or [""])[0]
            record.msg = "a task was lost; its unit is tried again after the others: %s: %s"
            record.args = (type(error).__name__, reason)
            record.exc_info = None
        return True


@contextmanager
def told_in_one_line() -> Iterator[None]:
    """For as long as this lasts, in this process."""
    logger, one_line = logging.getLogger(LOGGER_NAME), _OneLine()
    logger.addFilter(one_line)
    try:
        yield
    finally:
        logger.removeFilter(one_line)
