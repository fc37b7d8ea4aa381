"""JSON lines instead of text, where logging.format asks for them."""

from __future__ import annotations

import json
import logging
import os
import platform
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from functools import cache
from typing import Any, Literal

from shardrank.errors import ShardrankError

Format = Literal["text", "json"]
FIELDS = ("job", "unit", "worker")
"""What every line of a job has, None where it is not of one unit."""
ROOT = "shardrank"
_STANDARD = frozenset(vars(logging.makeLogRecord({}))) | {"message", "asctime", "taskName"}


class JsonFormatter(logging.Formatter):
    """A record as one line of JSON: time, level, logger, message, job, unit, worker, and more."""

    def format(self, record: logging.LogRecord) -> str:
        """One line, whatever the message holds."""
        given = {
            name: value
            for name, value in vars(record).items()
            if name not in _STANDARD and not name.startswith("_")
        }
        line: dict[str, Any] = {
            "time": datetime.fromtimestamp(record.created, UTC).isoformat(timespec="milliseconds"),
            "level": record.levelname.lower(),
            "logger": record.name,
            "message": record.getMessage(),
            **dict.fromkeys(FIELDS),
            "worker": worker_name(),
            **given,
        }
        if record.exc_info:
            line["traceback"] = self.formatException(record.exc_info)
        return json.dumps(line, ensure_ascii=False, default=str)


@contextmanager
def logging_as(chosen: Format) -> Iterator[None]:
    """Have the project's loggers write as a job is told to, for as long as this lasts.

    In JSON an error of ours is a line too, and ends the process with its exit code.
    """
    if chosen == "text":
        yield
        return
    remove = _write_json()
    try:
        yield
    except ShardrankError as error:
        logging.getLogger(ROOT).error("%s", error, extra={"exit_code": error.exit_code})
        raise SystemExit(error.exit_code) from error
    finally:
        remove()


@cache
def set_up_worker(chosen: Format) -> None:
    """The same for a worker's life; Ray keeps what it writes to stderr in a log file.

    Nothing is done in a driver, which writes already.
    """
    if chosen == "json" and not logging.getLogger(ROOT).handlers:
        _write_json()


@cache
def worker_name() -> str:
    """This process among all of a cluster: host and process id."""
    return f"{platform.node()}:{os.getpid()}"


def _write_json() -> Callable[[], None]:
    """Let the project's loggers write JSON lines to stderr; returns what puts it back."""
    logger, handler = logging.getLogger(ROOT), logging.StreamHandler(sys.stderr)
    handler.setFormatter(JsonFormatter())
    before = logger.level, logger.propagate
    logger.addHandler(handler)
    logger.setLevel(logging.INFO)
    logger.propagate = False

    def remove() -> None:
        logger.removeHandler(handler)
        logger.setLevel(before[0])
        logger.propagate = before[1]

    return remove
