from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from packed_runs import FakeRunner, prompts_of
from shardrank.engine.batching import left_pad
from shardrank.engine.packing import PackLimits
from shardrank.engine.paged_session import PagedSession
from shardrank.engine.scoring import score_prompts
from shardrank.engine.session import SessionDescription
from shardrank.errors import ModelError
from shardrank.testing import fake_log_odds

LIMITS = PackLimits(max_tokens=128, max_rows=8, bucket_tokens=16, block_sizes=(8, 4))

many = st.lists(st.lists(st.integers(0, 2), min_size=1, max_size=30), min_size=1, max_size=20)


def session_of(runner: FakeRunner) -> PagedSession:
    return PagedSession(runner, SessionDescription("0", "fake", "none"), LIMITS)


def log_odds(logits: np.ndarray) -> list[float]:
    return (logits[:, 0] - logits[:, 1]).tolist()


@given(many, st.sampled_from([1, 2]))
def test_prompts_are_scored_in_their_order(rows: list[list[int]], num_at_once: int) -> None:
    logits = session_of(FakeRunner(num_at_once=num_at_once)).score(
        prompts_of(rows), np.arange(len(rows))
    )
    assert logits.dtype == np.float32
    assert log_odds(logits) == [fake_log_odds(row) for row in rows]


def test_only_the_prompts_asked_for_are_scored() -> None:
    rows = [[1, 2], [3], [4, 5, 6], [7]]
    logits = session_of(FakeRunner()).score(prompts_of(rows), np.array([2, 0]))
    assert log_odds(logits) == [fake_log_odds(rows[2]), fake_log_odds(rows[0])]


@given(many, st.integers(32, 128))
def test_a_run_without_room_is_halved_until_it_fits(rows: list[list[int]], room: int) -> None:
    runner = FakeRunner(room)
    session = session_of(runner)
    logits = session.score(prompts_of(rows), np.arange(len(rows)))
    assert log_odds(logits) == [fake_log_odds(row) for row in rows]
    assert all(num_tokens <= room for num_tokens in runner.num_tokens)


@given(many)
def test_the_engine_hands_it_all_prompts_at_once(rows: list[list[int]]) -> None:
    runner = FakeRunner()
    logits = score_prompts(session_of(runner), prompts_of([*rows, []]), 0)
    assert log_odds(logits[:-1]) == [fake_log_odds(row) for row in rows]
    assert np.isnan(logits[-1]).all()


def test_a_caller_may_ask_for_smaller_runs_and_for_no_sharing() -> None:
    rows = [[1] * 20 + [number] for number in range(30)]
    runner = FakeRunner()
    session = session_of(runner)
    logits = session.score(prompts_of(rows), np.arange(30), max_tokens=64, reuse_prefix=False)
    assert log_odds(logits) == [fake_log_odds(row) for row in rows]
    assert max(runner.num_tokens) <= 64
    assert sum(runner.num_tokens) >= 30 * 21
    assert session.limits == LIMITS


def test_what_was_learned_about_the_room_is_kept() -> None:
    runner = FakeRunner(room=64)
    session = session_of(runner)
    rows = [[number] * 20 for number in range(40)]
    session.score(prompts_of(rows), np.arange(40))
    num_failed = runner.num_failed
    assert 1 <= num_failed <= 3
    assert session.limits.max_tokens <= 64
    session.score(prompts_of(rows), np.arange(40))
    assert runner.num_failed == num_failed


def test_a_prompt_that_has_no_room_alone_is_told() -> None:
    prompts = prompts_of([[1] * 100, [2], [3]])
    with pytest.raises(ModelError, match=r"no memory for one prompt of 112 tokens.*max_tokens"):
        session_of(FakeRunner(room=48)).score(prompts, np.arange(3))


def test_another_failure_is_handed_on() -> None:
    class Broken(FakeRunner):
        def run(self, run):
            raise RuntimeError("CUDA error 700")

    with pytest.raises(RuntimeError, match="700"):
        session_of(Broken()).score(prompts_of([[1]]), np.arange(1))


def test_a_padded_batch_is_packed() -> None:
    rows = [[1, 2, 3], [4], [5, 6]]
    session = session_of(FakeRunner())
    batch = left_pad(prompts_of(rows), np.arange(3), pad_id=0)
    assert log_odds(session.run(*batch)) == [fake_log_odds(row) for row in rows]


def test_a_broken_mask_is_refused() -> None:
    with pytest.raises(ValueError, match="row 0"):
        session_of(FakeRunner()).run(np.array([[1, 2, 3]]), np.array([[1, 0, 1]]))


def test_there_is_no_past_to_give_or_to_take() -> None:
    session = session_of(FakeRunner())
    assert not session.takes_past
    with pytest.raises(ValueError, match="no past"):
        session.extend(np.array([[1, 2]]))
    with pytest.raises(ValueError, match="no past"):
        session.run(np.array([[1]]), np.array([[1]]), past=object())


def test_the_scorer_takes_it_as_it_takes_any_session() -> None:
    rows = [[1, 2, 3], [4], [1, 2, 3], [5, 6]]
    logits = score_prompts(session_of(FakeRunner()), prompts_of(rows), pad_id=0)
    assert log_odds(logits) == [fake_log_odds(row) for row in rows]
