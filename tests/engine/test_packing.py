from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from packed_runs import prompts_of, rows_of
from shardrank.engine.batching import left_pad
from shardrank.engine.packing import PackedRun, PackLimits, RunPlan, halve, pack, plan_runs, unpad
from shardrank.types import Prompts

LIMITS = PackLimits(max_tokens=96, max_rows=8, bucket_tokens=16, block_sizes=(8, 4))

# Few different ids, so that prompts often begin alike.
ids = st.lists(st.integers(0, 1), min_size=1, max_size=40)
many = st.lists(ids, min_size=1, max_size=25)


def planned(rows: list[list[int]], limits: PackLimits = LIMITS) -> tuple[Prompts, RunPlan]:
    prompts = prompts_of(rows)
    return prompts, plan_runs(prompts, np.arange(len(rows)), limits)


def packed(rows: list[list[int]], limits: PackLimits = LIMITS) -> list[PackedRun]:
    prompts, plan = planned(rows, limits)
    return [pack(prompts, run, plan.block_size, limits) for run in plan.runs]


@given(many)
def test_every_prompt_is_in_one_run(rows: list[list[int]]) -> None:
    _, plan = planned(rows)
    assert sorted(np.concatenate(plan.runs).tolist()) == list(range(len(rows)))


@given(many)
def test_a_run_reads_each_prompt_whole_and_stores_nothing_twice(rows: list[list[int]]) -> None:
    prompts, plan = planned(rows)
    for indices in plan.runs:
        run = pack(prompts, indices, plan.block_size, LIMITS)
        found = rows_of(run)
        assert run.num_prompts == len(indices)
        assert found[: len(indices)] == [rows[index] for index in indices]
        assert not np.any([id for row in found[len(indices) :] for id in row])


@given(many)
def test_a_run_keeps_its_limits(rows: list[list[int]]) -> None:
    for run in packed(rows):
        assert len(run.past_seqlens) <= LIMITS.max_rows
        assert run.num_tokens % LIMITS.bucket_tokens == 0
        assert run.num_tokens <= LIMITS.max_tokens
        assert run.num_blocks * run.block_size <= LIMITS.max_cache_tokens


@given(many)
def test_the_host_tells_the_kernel_how_long_prompts_are(rows: list[list[int]]) -> None:
    for run in packed(rows):
        new = np.diff(run.cumulative_sequence_length)
        seen = int((new + run.past_seqlens).max())
        assert run.attention_metadata.tolist() == [new.max(), seen, seen]
        assert (new > 0).all()
        assert run.block_table.shape == (len(new), -(-seen // run.block_size))


@given(many)
def test_the_types_are_those_of_the_graph(rows: list[list[int]]) -> None:
    for run in packed(rows):
        assert run.input_ids.dtype == np.int64
        others = (
            run.cumulative_sequence_length,
            run.past_seqlens,
            run.block_table,
            run.attention_metadata,
        )
        assert {array.dtype for array in others} == {np.dtype(np.int32)}


@given(many)
def test_the_plan_counts_the_tokens_that_runs_compute(rows: list[list[int]]) -> None:
    prompts, plan = planned(rows)
    runs = [pack(prompts, run, plan.block_size, LIMITS) for run in plan.runs]
    computed = sum(int(run.cumulative_sequence_length[run.num_prompts]) for run in runs)
    assert plan.num_tokens == computed


def test_prompts_that_begin_alike_share_whole_blocks() -> None:
    front = list(range(20))
    (run,) = packed([[*front, 50], [*front, 60, 61], [*front, 70, 71, 72]])
    # 16 of 20 at a block of 8; and 20 of 20 at one of 4.
    assert run.block_size == 4
    assert sorted(run.past_seqlens.tolist()) == [0, 0, 20, 20]
    assert run.num_tokens == 32


def test_large_blocks_are_kept_where_small_ones_save_little() -> None:
    front = list(range(16))
    _, plan = planned([[*front, 50], [*front, 60, 61], [*front, 70, 71, 72]])
    assert plan.block_size == 8


def test_the_last_token_is_always_computed() -> None:
    row = list(range(16))
    (run,) = packed([row, row])
    assert run.past_seqlens.tolist()[:2] == [0, 12]


def test_long_and_short_prompts_share_no_run_that_would_be_a_large_rectangle() -> None:
    limits = PackLimits(max_tokens=64, max_rows=256, bucket_tokens=16, block_sizes=(8,))
    _, plan = planned([[1] * 60, *([2, number] for number in range(20))], limits)
    sizes = [len(run) for run in plan.runs]
    assert sum(sizes) == 21
    assert sizes[0] <= 4


def test_a_prompt_above_the_limit_is_a_run_of_its_own() -> None:
    runs = packed([[1] * 200, [2], [3]])
    assert [run.num_prompts for run in runs] == [1, 2]


def test_nothing_is_no_run() -> None:
    prompts = prompts_of([])
    assert plan_runs(prompts, np.arange(0), LIMITS).runs == ()


@given(many, st.randoms(use_true_random=False))
def test_the_plan_does_not_depend_on_the_order_of_different_prompts(rows, random) -> None:
    rows = [list(row) for row in dict.fromkeys(map(tuple, rows))]
    other = list(rows)
    random.shuffle(other)
    plans = [
        [[tuple(given[i]) for i in run] for run in planned(given)[1].runs]
        for given in (rows, other)
    ]
    assert plans[0] == plans[1]


@given(many)
def test_a_padded_batch_becomes_its_prompts_again(rows: list[list[int]]) -> None:
    prompts = prompts_of(rows)
    found = unpad(*left_pad(prompts, np.arange(len(rows)), pad_id=9))
    assert [found[number].tolist() for number in range(len(found))] == rows


@given(st.integers(2, 50))
def test_halves_are_a_whole(number: int) -> None:
    first, second = halve(np.arange(number))
    assert np.array_equal(np.concatenate([first, second]), np.arange(number))
    assert 0 <= len(second) - len(first) <= 1


@pytest.mark.parametrize("num_tokens", [1, 15, 16])
def test_filler_is_no_longer_than_the_longest_prompt_if_rows_suffice(num_tokens: int) -> None:
    (run,) = packed([[1] * num_tokens])
    assert run.attention_metadata[0] <= max(num_tokens, LIMITS.bucket_tokens // 4)
