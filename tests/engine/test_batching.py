from __future__ import annotations

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from shardrank.engine.batching import left_pad, plan_batches, plan_continuations
from shardrank.types import Prompts

lengths_of_prompts = st.lists(st.integers(0, 40), max_size=60).map(lambda x: np.array(x, np.int64))
budgets = st.integers(1, 100)


def prompts_of(*rows: list[int]) -> Prompts:
    lengths = [len(row) for row in rows]
    return Prompts(
        token_ids=np.array([id for row in rows for id in row], np.int32),
        offsets=np.concatenate([[0], np.cumsum(lengths)]).astype(np.int64),
        num_shared=np.zeros(len(rows), np.int32),
        truncated=np.zeros(len(rows), np.bool_),
    )


@given(lengths_of_prompts, budgets)
def test_every_prompt_with_tokens_is_in_exactly_one_batch(lengths: np.ndarray, budget: int) -> None:
    batches = plan_batches(lengths, budget)
    planned = sorted(index for batch in batches for index in batch.tolist())
    assert planned == np.flatnonzero(lengths).tolist()


@given(lengths_of_prompts, budgets)
def test_a_batch_keeps_to_the_budget_or_is_one_prompt(lengths: np.ndarray, budget: int) -> None:
    for batch in plan_batches(lengths, budget):
        assert len(batch) == 1 or len(batch) * lengths[batch].max() <= budget


@given(lengths_of_prompts, budgets)
def test_no_batch_has_room_for_the_next_prompt(lengths: np.ndarray, budget: int) -> None:
    for batch in plan_batches(lengths, budget)[:-1]:
        assert (len(batch) + 1) * lengths[batch].max() > budget


@given(lengths_of_prompts, budgets)
def test_the_longest_come_first_and_equal_ones_in_order(lengths: np.ndarray, budget: int) -> None:
    flat = [index for batch in plan_batches(lengths, budget) for index in batch.tolist()]
    assert flat == sorted(flat, key=lambda index: (-lengths[index], index))


def test_nothing_makes_no_batches() -> None:
    assert plan_batches(np.zeros(0, np.int64), 10) == []
    assert plan_batches(np.zeros(3, np.int64), 10) == []


def test_prompts_are_padded_on_the_left() -> None:
    prompts = prompts_of([1, 2, 3], [4], [5, 6])
    input_ids, attention_mask = left_pad(prompts, np.array([2, 0, 1]), pad_id=9)
    assert input_ids.tolist() == [[9, 5, 6], [1, 2, 3], [9, 9, 4]]
    assert attention_mask.tolist() == [[0, 1, 1], [1, 1, 1], [0, 0, 1]]
    assert input_ids.dtype == attention_mask.dtype == np.int64


@given(st.lists(st.lists(st.integers(1, 9), max_size=5), min_size=1, max_size=8))
def test_padding_loses_no_id(rows: list[list[int]]) -> None:
    input_ids, attention_mask = left_pad(prompts_of(*rows), np.arange(len(rows)), pad_id=0)
    unpadded = [
        ids[mask == 1].tolist() for ids, mask in zip(input_ids, attention_mask, strict=True)
    ]
    assert unpadded == rows


new_tokens = st.lists(st.integers(1, 300), min_size=1, max_size=40).map(lambda x: np.array(x))


@given(new_tokens, st.integers(1, 600))
def test_every_continuation_is_in_exactly_one_run(num_new: np.ndarray, num_past: int) -> None:
    batches = plan_continuations(num_new, num_past)
    assert sorted(np.concatenate(batches).tolist()) == list(range(len(num_new)))


@given(new_tokens, st.integers(1, 600))
def test_continuations_share_a_run_as_far_as_that_gains_anything(
    num_new: np.ndarray, num_past: int
) -> None:
    for batch in plan_continuations(num_new, num_past):
        lengths = num_new[batch]
        assert (np.diff(lengths) <= 0).all()
        assert len(batch) == 1 or len(batch) * num_past <= 512
        assert len(batch) == 1 or lengths.sum() <= 256


@given(new_tokens, st.integers(1, 600), st.integers(0, 10_000))
def test_continuations_of_one_past_share_longer_runs_where_there_is_enough_to_do(
    num_new: np.ndarray, num_past: int, num_more: int
) -> None:
    num_all = int(num_new.sum()) + num_more
    batches = plan_continuations(num_new, num_past, shares_past=True, num_all=num_all)
    assert sorted(np.concatenate(batches).tolist()) == list(range(len(num_new)))
    most = min(768, max(256, num_all // 8))
    assert all(len(batch) == 1 or num_new[batch].sum() <= most for batch in batches)
    assert all((np.diff(num_new[batch]) <= 0).all() for batch in batches)
    # No fewer runs would do, and no shorter ones.
    longest = max((int(num_new[batch].sum()) for batch in batches if len(batch) > 1), default=0)
    assert len(batches) == num_runs(num_new, most)
    assert longest <= 1 or num_runs(num_new, longest - 1) > len(batches)


def num_runs(num_new: np.ndarray, most: int) -> int:
    """Of neighbours, the longest first, each as long as it may be."""
    number, num_tokens = 0, most
    for length in sorted(num_new.tolist(), reverse=True):
        num_tokens += length
        if num_tokens > most:
            number, num_tokens = number + 1, length
    return number


def test_the_documents_of_one_query_are_cut_for_several_callers() -> None:
    runs = plan_continuations(np.full(20, 44), num_past=72, shares_past=True)
    assert [len(batch) for batch in runs] == [5, 5, 5, 5]
    runs = plan_continuations(np.full(20, 44), num_past=72, shares_past=True, num_all=10**5)
    assert [len(batch) for batch in runs] == [10, 10]


def test_sentences_share_runs_and_passages_do_not() -> None:
    runs = plan_continuations(np.array([44, 40, 43, 41, 12, 300, 10, 44]), num_past=72)
    assert [batch.tolist() for batch in runs] == [[5], [0, 7, 2, 3, 1, 4, 6]]
