"""How large runs may be on a device. A pure function."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from shardrank.engine.packing import DEFAULT_LIMITS, PackLimits

_HALF_BYTES, _FLOAT_BYTES = 2, 4
_USED_SHARE = 0.85
"""Of the free memory; the rest is for workspaces, and for what an arena cannot put together."""

# Values of a token that are in memory at once, in multiples of the graph's widths, counted from
# the order of its nodes: residual, norm and sum; query, key and value before and after the rotary
# positions, and the attention's output; gate, up, activated gate and their product.
_NUM_HIDDEN, _NUM_QUERY, _NUM_KEY_VALUE, _NUM_INTERMEDIATE = 4, 4, 6, 4


_SIZES = ("hidden_size", "num_heads", "num_key_value_heads", "head_size", "intermediate_size")
_UNBOUNDED = 2**31 - 1
NUM_CUDA_CALLERS = 2
"""Threads that give a GPU padded batches: one prepares while the GPU works on the other's."""


def plan_limits(
    architecture: Mapping[str, Any],
    free_bytes: int,
    max_prompt_tokens: int,
    num_caches: int = 1,
    limits: PackLimits = DEFAULT_LIMITS,
) -> PackLimits:
    """The limits, with max_tokens as the free memory allows.

    architecture: of reranker.json. free_bytes: of the device, with the weights loaded.
    max_prompt_tokens: the longest prompt, for which there must be room in a cache. num_caches: runs
        at once.

    It is an estimate: where it is too large, runs are halved (paged_session).
    """
    # A cache holds blocks that are not full, and a prompt of any length.
    spare = replace(limits, max_tokens=max_prompt_tokens).max_cache_tokens
    cached = num_caches * spare * cache_bytes(architecture)
    room = free_bytes * _USED_SHARE - cached
    per_token = num_caches * (run_bytes(architecture) + cache_bytes(architecture))
    affordable = int(room / per_token) // limits.bucket_tokens * limits.bucket_tokens
    return replace(limits, max_tokens=max(limits.bucket_tokens, min(limits.max_tokens, affordable)))


def plan_batch_tokens(architecture: Mapping[str, Any], free_bytes: int, num_batches: int) -> int:
    """Tokens of a padded batch that the free memory allows, where so many run at once.

    architecture, free_bytes: as for plan_limits. It is an estimate: where it is too large, batches
    are halved (halving_session). An export may not tell its sizes: then halving alone bounds it.
    """
    if not all(architecture.get(size) for size in _SIZES):
        return _UNBOUNDED
    per_token = num_batches * (run_bytes(architecture) + cache_bytes(architecture))
    return max(1, int(free_bytes * _USED_SHARE / per_token))


def cache_bytes(architecture: Mapping[str, Any]) -> int:
    """Bytes that a token takes in a cache, keys and values."""
    return (
        2 * _HALF_BYTES * int(architecture["num_key_value_heads"]) * int(architecture["head_size"])
    )


def run_bytes(architecture: Mapping[str, Any]) -> int:
    """Bytes that a token takes while it is computed, without the cache."""
    query = int(architecture["num_heads"]) * int(architecture["head_size"])
    key_value = int(architecture["num_key_value_heads"]) * int(architecture["head_size"])
    values = (
        _NUM_HIDDEN * int(architecture["hidden_size"])
        + _NUM_QUERY * query
        + _NUM_KEY_VALUE * key_value
        + _NUM_INTERMEDIATE * int(architecture["intermediate_size"])
    )
    # The kernel for small blocks gathers keys and values for every query head, and adds up in
    # float32.
    gathered = 2 * query * _HALF_BYTES + query * _FLOAT_BYTES
    return values * _HALF_BYTES + gathered
