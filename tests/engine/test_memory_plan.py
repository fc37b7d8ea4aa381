from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from shardrank.engine.memory_plan import cache_bytes, plan_batch_tokens, plan_limits, run_bytes
from shardrank.engine.packing import DEFAULT_LIMITS

SMALL = {
    "hidden_size": 1024, "num_heads": 16, "num_key_value_heads": 8, "head_size": 128,
    "intermediate_size": 3072,
}  # fmt: skip
LARGE = {
    "hidden_size": 4096, "num_heads": 32, "num_key_value_heads": 8, "head_size": 128,
    "intermediate_size": 12288,
}  # fmt: skip
GIB = 2**30


def test_a_large_gpu_takes_the_largest_runs() -> None:
    assert plan_limits(SMALL, 20 * GIB, 8192) == DEFAULT_LIMITS


def test_a_small_one_takes_smaller_runs() -> None:
    limits = plan_limits(LARGE, 6 * GIB, 8192)
    assert 8192 < limits.max_tokens < DEFAULT_LIMITS.max_tokens
    assert limits.max_tokens % limits.bucket_tokens == 0


def test_runs_at_once_share_the_memory() -> None:
    one, two = (plan_limits(LARGE, 10 * GIB, 8192, num_caches=number) for number in (1, 2))
    assert two.max_tokens <= one.max_tokens / 2 + one.bucket_tokens


@given(st.integers(0, 200 * GIB), st.sampled_from([512, 8192, 32768]))
def test_the_plan_fits_the_memory(free_bytes: int, max_prompt_tokens: int) -> None:
    limits = plan_limits(SMALL, free_bytes, max_prompt_tokens)
    assert limits.bucket_tokens <= limits.max_tokens <= DEFAULT_LIMITS.max_tokens
    if limits.max_tokens > limits.bucket_tokens:
        assert limits.max_tokens * (cache_bytes(SMALL) + run_bytes(SMALL)) <= free_bytes


@given(st.integers(0, 200 * GIB), st.sampled_from([1, 2, 3]))
def test_padded_batches_at_once_fit_the_memory(free_bytes: int, num_batches: int) -> None:
    tokens = plan_batch_tokens(LARGE, free_bytes, num_batches)
    assert tokens >= 1
    if tokens > 1:
        assert num_batches * tokens * (cache_bytes(LARGE) + run_bytes(LARGE)) <= free_bytes


def test_an_export_that_does_not_tell_its_sizes_is_bounded_by_halving_alone() -> None:
    partial = {key: value for key, value in SMALL.items() if key != "head_size"}
    for unknown in (partial, {**partial, "head_size": None}):
        assert plan_batch_tokens(unknown, GIB, 2) > 10**9
