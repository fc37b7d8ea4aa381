"""Which prompts go together, and the rectangle that they become. Pure functions over arrays."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise

import numpy as np

from shardrank.types import Int32Array, Int64Array, Prompts

_MAX_NEW_TOKENS = 256
"""Of a run that continues a past; more gain nothing (docs/decisions/017-packed.md)."""

_MAX_PAST_TOKENS = 512
"""Of the past of all rows of a run, which are copies: 0.23 MB a token in the 0.6B shape."""

_MAX_NEW_TOKENS_SHARED = 768
"""Of a run whose rows share one past (docs/decisions/022-fused-on-cpus.md)."""

_FEWEST_RUNS = 8
"""Of all prompts together: callers would wait for the last of fewer."""


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


def left_pad(
    prompts: Prompts, indices: Int64Array, pad_id: int, start: int = 0
) -> tuple[Int64Array, Int64Array]:
    """input_ids and attention_mask, int64 [num_indices, longest], prompts at the right edge.

    start: how many first tokens of each are left out; every prompt is longer.
    """
    return pad_rows([prompts[index][start:] for index in indices], pad_id)


def pad_rows(rows: Sequence[Int32Array], pad_id: int) -> tuple[Int64Array, Int64Array]:
    """input_ids and attention_mask, int64 [num_rows, longest], of rows of ids."""
    lengths = np.array([len(row) for row in rows], np.int64)
    longest = int(lengths.max(initial=0))
    is_token = np.arange(longest) >= longest - lengths[:, None]
    input_ids = np.full(is_token.shape, pad_id, np.int64)
    for padded, ids in zip(input_ids, rows, strict=True):
        padded[longest - len(ids) :] = ids
    return input_ids, is_token.astype(np.int64)


def plan_continuations(
    num_new: Int64Array, num_past: int, *, shares_past: bool = False, num_all: int | None = None
) -> list[Int64Array]:
    """Which prompts go together after a past of num_past tokens.

    num_new: int64 [num_prompts], tokens of each after the past. shares_past: whether the session
        reads one past for all of them; its runs are long where there is enough to do for several
        callers. num_all: new tokens of this and all other pasts; None for these alone.

    Every prompt is in exactly one batch; each batch is an array of indices into num_new, the
    longest first.

    A run reads all weights of the model once, which costs as much as some 20 tokens, so prompts
    that are short share a run. None is computed for padding (graph.packed_rows).
    """
    order = np.argsort(-num_new, kind="stable")
    if shares_past:
        share = (int(num_new.sum()) if num_all is None else num_all) // _FEWEST_RUNS
        return _cut_evenly(num_new, order, min(max(_MAX_NEW_TOKENS, share), _MAX_NEW_TOKENS_SHARED))
    most = _MAX_NEW_TOKENS
    batches: list[list[int]] = []
    num_tokens = 0
    for place in order.tolist():
        length = int(num_new[place])
        size = len(batches[-1]) + 1 if batches else 1
        if batches and num_tokens + length <= most and size * num_past <= _MAX_PAST_TOKENS:
            batches[-1].append(place)
            num_tokens += length
        else:
            batches.append([place])
            num_tokens = length
    return [np.array(batch, np.int64) for batch in batches]


def _cut_evenly(num_new: Int64Array, order: Int64Array, most: int) -> list[Int64Array]:
    """Neighbours in the order, in as few runs of at most so many tokens, or of one prompt, as go.

    Of all such cuts one whose longest run is shortest: callers that take equal runs end together.
    """
    ends = np.cumsum(num_new[order])

    def cut(limit: int) -> list[int]:
        stops = [0]
        while stops[-1] < len(order):
            start = stops[-1]
            done = int(ends[start - 1]) if start else 0
            stops.append(max(start + 1, int(np.searchsorted(ends, done + limit, side="right"))))
        return stops

    num_runs, low, high = len(cut(most)), 1, most
    while low < high:
        middle = (low + high) // 2
        low, high = (low, middle) if len(cut(middle)) <= num_runs else (middle + 1, high)
    stops = cut(high)
    return [order[start:stop] for start, stop in pairwise(stops)]
