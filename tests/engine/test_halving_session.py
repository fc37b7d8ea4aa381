from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from packed_runs import prompts_of
from shardrank.engine.batching import left_pad
from shardrank.engine.device_memory import OutOfDeviceMemoryError, run_with_room
from shardrank.engine.halving_session import HalvingSession
from shardrank.engine.session import SessionDescription
from shardrank.errors import ModelError
from shardrank.testing import FakeSession, fake_log_odds

rows_of_ids = st.lists(
    st.lists(st.integers(1, 5), min_size=1, max_size=30), min_size=1, max_size=20
)


class SmallDevice:
    """A device with room for so many tokens of a batch."""

    def __init__(self, room: int) -> None:
        self._room = room
        self._session = FakeSession()
        self.num_tokens: list[int] = []

    @property
    def description(self) -> SessionDescription:
        return self._session.description

    def run(self, input_ids: np.ndarray, attention_mask: np.ndarray) -> np.ndarray:
        self.num_tokens.append(input_ids.size)
        if input_ids.size > self._room:
            raise OutOfDeviceMemoryError("Failed to allocate memory")
        return self._session.run(input_ids, attention_mask)


def log_odds(session: HalvingSession, rows: list[list[int]]) -> list[float]:
    logits = session.run(*left_pad(prompts_of(rows), np.arange(len(rows)), 0))
    return (logits[:, 0] - logits[:, 1]).tolist()


@given(rows_of_ids, st.integers(30, 200), st.integers(1, 600))
def test_rows_are_scored_in_their_order_whatever_the_room(
    rows: list[list[int]], room: int, max_tokens: int
) -> None:
    session = HalvingSession(SmallDevice(room), max_tokens)
    assert log_odds(session, rows) == [fake_log_odds(row) for row in rows]


def test_a_batch_that_is_known_to_be_too_large_is_not_tried() -> None:
    device = SmallDevice(room=64)
    session = HalvingSession(device, 10**6)
    rows = [[1] * 8] * 16
    log_odds(session, rows)
    tried = len(device.num_tokens)
    log_odds(session, rows)
    assert device.num_tokens[:tried] == [128, 64, 64]
    assert device.num_tokens[tried:] == [64, 64]


def test_halves_lose_the_columns_that_only_the_other_half_needed() -> None:
    device = SmallDevice(room=40)
    log_odds(HalvingSession(device, 10**6), [[1] * 20, [2] * 4])
    assert device.num_tokens == [40]
    device = SmallDevice(room=39)
    log_odds(HalvingSession(device, 10**6), [[1] * 20, [2] * 4])
    assert device.num_tokens == [40, 20, 4]


def test_a_prompt_that_can_never_fit_is_told_by_name() -> None:
    with pytest.raises(ModelError, match="no memory for one prompt of 12 tokens"):
        log_odds(HalvingSession(SmallDevice(room=10), 10**6), [[1] * 12, [2] * 3])


def test_a_second_run_finds_the_arena_put_together_again() -> None:
    tried = []

    def call(options: object) -> str:
        tried.append(options)
        if options is None:
            raise RuntimeError("BFCArena: Failed to allocate memory for requested buffer")
        return "done"

    assert run_with_room(call) == "done"
    assert len(tried) == 2


def test_other_errors_are_nobody_s_business() -> None:
    def call(options: object) -> None:
        raise RuntimeError("the graph is broken")

    with pytest.raises(RuntimeError, match="the graph is broken"):
        run_with_room(call)
