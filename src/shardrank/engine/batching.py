"""Which prompts go together, and the rectangle that they become. Pure functions over arrays."""

from __future__ import annotations

import numpy as np

from shardrank.types import Int64Array, Prompts


def plan_batches(lengths: Int64Array, max_batch_tokens: int) -> list[Int64Array]:
    """Cut prompts into batches of at most max_batch_tokens tokens, padding included.

    lengths: int64 [num_prompts], tokens of each. Prompts of length 0 are in no batch, every other
    one is in exactly one; a prompt longer than the budget is a batch of its own. Each batch is an
    array of indices into lengths, the longest prompt first.

    Prompts are sorted by length so that little is padding, the longest first so that memory peaks
    in the first batch: a budget that is too large fails in seconds and not in the last minute, and
    an allocator that keeps its blocks never needs larger ones. Equal lengths keep their order.
    """
    order = np.argsort(-lengths, kind="stable")
    order = order[: np.count_nonzero(lengths)]
    batches = []
    start = 0
    while start < len(order):
        longest = int(lengths[order[start]])
        stop = start + max(1, max_batch_tokens // longest)
        batches.append(order[start:stop])
        start = stop
    return batches


def left_pad(prompts: Prompts, indices: Int64Array, pad_id: int) -> tuple[Int64Array, Int64Array]:
    """input_ids and attention_mask, int64 [num_indices, longest], prompts at the right edge."""
    lengths = prompts.offsets[indices + 1] - prompts.offsets[indices]
    longest = int(lengths.max(initial=0))
    is_token = np.arange(longest) >= longest - lengths[:, None]
    input_ids = np.full(is_token.shape, pad_id, np.int64)
    # A boolean index counts row by row, which is the order of the prompts' ids.
    input_ids[is_token] = np.concatenate([prompts[index] for index in indices])
    return input_ids, is_token.astype(np.int64)
