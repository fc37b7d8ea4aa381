"""What is said of a task that was lost, and that saying it keeps nothing alive."""

import gc
import logging
import weakref
from importlib.util import find_spec

import pytest

from shardrank.job.lost_tasks import LOGGER_NAME, told_in_one_line


class Handle:
    """What a frame of the traceback holds."""


def lose_a_task() -> weakref.ref[Handle]:
    handle = Handle()
    try:
        raise RuntimeError("the actor is gone\nand much more")
    except RuntimeError as error:
        logging.getLogger(LOGGER_NAME).error("An exception was raised", exc_info=error)
    return weakref.ref(handle)


def test_a_lost_task_is_one_line_of_what_and_why(caplog: pytest.LogCaptureFixture) -> None:
    with told_in_one_line():
        lose_a_task()
    assert caplog.messages == [
        "a task was lost; its unit is tried again after the others: RuntimeError: the actor is gone"
    ]
    assert "Traceback" not in caplog.text


def test_a_kept_record_does_not_keep_the_actor(caplog: pytest.LogCaptureFixture) -> None:
    with told_in_one_line():
        actor = lose_a_task()
    gc.collect()
    assert len(caplog.records) == 1
    assert actor() is None


def test_others_of_this_process_see_what_ray_data_says(
    caplog: pytest.LogCaptureFixture,
) -> None:
    with told_in_one_line():
        pass
    lose_a_task()
    assert "Traceback" in caplog.text


def test_ray_data_still_has_the_module_that_says_it() -> None:
    assert find_spec(LOGGER_NAME) is not None


def test_records_without_an_exception_stay_as_they_are(caplog: pytest.LogCaptureFixture) -> None:
    with told_in_one_line():
        logging.getLogger(LOGGER_NAME).error("of %s", "something else")
    assert caplog.messages == ["of something else"]
