"""Ray Data's settings where its own shuffles and joins are used: quiet, and with our own errors."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from contextlib import contextmanager

from ray.data import DataContext


@contextmanager
def quiet_data() -> Iterator[None]:
    """Put back, afterwards, what whoever else uses this process had set."""
    context = DataContext.get_current()
    ours = {
        "enable_progress_bars": False,
        "print_on_execution_start": False,
        # Inside Ray's own wrapper the exception itself is lost on its way to the driver.
        "raise_original_map_exception": True,
    }
    before = {name: getattr(context, name) for name in ours}
    logger = logging.getLogger("ray.data")
    level = logger.level
    logger.setLevel(logging.ERROR)
    for name, value in ours.items():
        setattr(context, name, value)
    try:
        yield
    finally:
        logger.setLevel(level)
        for name, value in before.items():
            setattr(context, name, value)
