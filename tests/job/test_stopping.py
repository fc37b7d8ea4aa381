import os
import signal
import sys
import threading

import pytest

from shardrank.errors import IncompleteError, OutputBusyError
from shardrank.job.stopping import sigterm_is_noted, stop_main_thread, stops_on_sigterm


def test_a_signal_becomes_an_error_that_says_how_to_go_on() -> None:
    with pytest.raises(IncompleteError, match="the same command again"), stops_on_sigterm():
        os.kill(os.getpid(), signal.SIGTERM)


def terminate() -> None:
    os.kill(os.getpid(), signal.SIGTERM)


def test_where_work_can_be_brought_in_order_the_first_is_noted_and_the_second_counts() -> None:
    with stops_on_sigterm(), sigterm_is_noted() as noted:
        terminate()
        assert noted.is_set()
    with pytest.raises(IncompleteError), stops_on_sigterm(), sigterm_is_noted():
        _ = terminate(), terminate()


def test_what_this_process_ends_by_itself_is_not_put_off() -> None:
    reason = OutputBusyError("superseded")
    ends = pytest.raises(OutputBusyError, match="superseded")
    with ends, stops_on_sigterm(), sigterm_is_noted():
        stop_main_thread(reason)


def test_a_library_that_catches_every_exception_does_not_swallow_it() -> None:
    def careless() -> None:
        try:
            os.kill(os.getpid(), signal.SIGTERM)
        except Exception:
            pytest.fail("taken for a failure of the library's own")

    with pytest.raises(IncompleteError), stops_on_sigterm():
        careless()


def test_a_foreign_handler_that_exits_with_the_signal_means_the_same() -> None:
    def connect() -> None:
        signal.signal(signal.SIGTERM, lambda number, frame: sys.exit(number))
        os.kill(os.getpid(), signal.SIGTERM)

    with pytest.raises(IncompleteError), stops_on_sigterm():
        connect()


def test_a_foreign_handler_that_sets_an_alarm_does_not_end_the_cleaning_up() -> None:
    def handle_with_alarm() -> None:
        signal.alarm(60)
        terminate()

    with pytest.raises(IncompleteError), stops_on_sigterm():
        handle_with_alarm()
    assert signal.alarm(0) == 0


def test_any_other_exit_stays_what_it_is() -> None:
    with pytest.raises(SystemExit), stops_on_sigterm():
        sys.exit(6)


def test_the_handler_of_before_is_put_back() -> None:
    before = signal.getsignal(signal.SIGTERM)
    with stops_on_sigterm():
        assert signal.getsignal(signal.SIGTERM) is not before
    assert signal.getsignal(signal.SIGTERM) is before


def test_outside_the_main_thread_it_does_nothing() -> None:
    failures: list[BaseException] = []

    def work() -> None:
        try:
            with stops_on_sigterm():
                pass
        except BaseException as error:
            failures.append(error)

    thread = threading.Thread(target=work)
    thread.start()
    thread.join()
    assert failures == []
