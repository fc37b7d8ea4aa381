"""Prompts behind each other in one run of a `paged` graph. Pure functions over arrays.

The keys and values of a run stand in blocks of a few tokens, and a table says which blocks a prompt
reads. Prompts that begin alike read the same first blocks: the first of them computes those, in the
same run, and the others compute what is left. Nothing outlives a run.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from shardrank.types import Int32Array, Int64Array, Prompts

_NUM_FILLER_ROWS = 4
"""Rows of a run that are kept free, for tokens that fill it up to a bucket."""

_MIN_SAVED_SHARE = 0.1
"""Small blocks are read by a slower kernel, and are worth it where they save this many tokens."""

_MAX_RECTANGLE = 4
"""What a run would be as a rectangle, in max_tokens: that kernel's memory grows with it."""


@dataclass(frozen=True, slots=True)
class PackLimits:
    """How large a run may be.

    max_tokens: computed in a run; a longer prompt is a run of its own.
    max_rows: prompts of a run, 8 or more; early kernels are wrong beyond 256.
    bucket_tokens: a run is filled up to a multiple of it, so that an allocator meets few sizes.
    block_sizes: tokens of a block, powers of two, the one of the fastest kernel first; the others
        are taken where they let prompts share more.
    shares_blocks: False to compute every token of every prompt.
    """

    max_tokens: int = 65536
    max_rows: int = 256
    bucket_tokens: int = 512
    block_sizes: tuple[int, ...] = (128, 16)
    shares_blocks: bool = True

    @property
    def max_cache_tokens(self) -> int:
        """Room that the blocks of any run need, where no prompt is longer than max_tokens."""
        return self.max_tokens + self.bucket_tokens + self.max_rows * max(self.block_sizes)


DEFAULT_LIMITS = PackLimits()


@dataclass(frozen=True, slots=True)
class RunPlan:
    """Which prompts go together.

    runs: indices of prompts, int64, in the order in which they are packed.
    block_size: tokens of a block. num_tokens: that are computed in all, without filler.
    """

    runs: tuple[Int64Array, ...]
    block_size: int
    num_tokens: int


@dataclass(frozen=True, slots=True)
class PackedRun:
    """The inputs of one run; names, shapes and types as graph.paged has them.

    num_prompts: the first rows of the logits; those behind them are filler.
    num_blocks: how many of the cache are used, the first ones.
    """

    num_prompts: int
    input_ids: Int64Array
    cumulative_sequence_length: Int32Array
    past_seqlens: Int32Array
    block_table: Int32Array
    attention_metadata: Int32Array
    block_size: int
    num_blocks: int

    @property
    def num_tokens(self) -> int:
        """Tokens that are computed, filler counted."""
        return len(self.input_ids)


def plan_runs(prompts: Prompts, indices: Int64Array, limits: PackLimits) -> RunPlan:
    """Cut prompts into runs.

    indices: int64 [n], prompts of one token or more. Each is in exactly one run.

    Prompts that begin alike are neighbours, so that they can share blocks. Before that they are
    parted by length, each class twice as long as the next: a kernel may reserve the room of the
    longest for every row, and with the longest first, memory peaks at once.
    """
    if not len(indices):
        return RunPlan((), limits.block_sizes[0], 0)
    keys = [(-len(prompts[i]).bit_length(), prompts[i].tobytes()) for i in indices.tolist()]
    order = indices[sorted(range(len(keys)), key=keys.__getitem__)]
    lengths, common = prompts.lengths[order], _num_common(prompts, order, limits)
    best, *others = (_cut(order, lengths, common, limits, size) for size in limits.block_sizes)
    for plan in others:
        if plan.num_tokens < best.num_tokens * (1 - _MIN_SAVED_SHARE):
            best = plan
    return best


def pack(prompts: Prompts, indices: Int64Array, block_size: int, limits: PackLimits) -> PackedRun:
    """The inputs of a run of these prompts, in this order."""
    lengths = prompts.lengths[indices]
    common = _num_common(prompts, indices, limits)
    past = _num_shared(lengths, common, block_size)
    parts = [prompts[index][start:] for index, start in zip(indices.tolist(), past, strict=True)]
    filler = _filler(-int((lengths - past).sum()) % limits.bucket_tokens, int(lengths.max()))
    num_new = np.concatenate([lengths - past, filler])
    past = np.concatenate([past, np.zeros_like(filler)])
    num_shared = past // block_size
    num_own = -(-num_new // block_size)
    tables: list[list[int]] = []
    num_blocks = 0
    for shared, own in zip(num_shared.tolist(), num_own.tolist(), strict=True):
        before = tables[-1][:shared] if tables else []
        tables.append([*before, *range(num_blocks, num_blocks + own)])
        num_blocks += own
    most = int((num_new + past).max())
    return PackedRun(
        num_prompts=len(indices),
        input_ids=np.concatenate([*parts, np.zeros(filler.sum(), np.int32)]).astype(np.int64),
        cumulative_sequence_length=np.concatenate([[0], np.cumsum(num_new)]).astype(np.int32),
        past_seqlens=past.astype(np.int32),
        block_table=_rectangle(tables),
        attention_metadata=np.array([int(num_new.max()), most, most], np.int32),
        block_size=block_size,
        num_blocks=num_blocks,
    )


def unpad(input_ids: Int64Array, attention_mask: Int64Array) -> Prompts:
    """The prompts of a padded batch, int64 [num_prompts, longest] both."""
    lengths = attention_mask.sum(axis=1)
    return Prompts(
        token_ids=input_ids[attention_mask == 1].astype(np.int32),
        offsets=np.concatenate([[0], np.cumsum(lengths)]).astype(np.int64),
        num_shared=np.zeros(len(lengths), np.int32),
        truncated=np.zeros(len(lengths), np.bool_),
    )


def halve(indices: Int64Array) -> tuple[Int64Array, Int64Array]:
    """A run's prompts as two runs, neighbours together."""
    middle = len(indices) // 2
    return indices[:middle], indices[middle:]


def _cut(
    order: Int64Array,
    lengths: Int64Array,
    common: Int64Array,
    limits: PackLimits,
    block_size: int,
) -> RunPlan:
    max_rows = limits.max_rows - _NUM_FILLER_ROWS
    max_rectangle = limits.max_tokens * _MAX_RECTANGLE
    shared = _num_shared(lengths, common, block_size).tolist()
    starts: list[int] = []
    num_tokens, total, longest = 0, 0, 0
    for place, length in enumerate(lengths.tolist()):
        num_rows = place - starts[-1] if starts else 0
        num_new = length - shared[place]
        longest = max(longest, length)
        if (
            not starts
            or num_tokens + num_new > limits.max_tokens
            or num_rows == max_rows
            or (num_rows + 1) * longest > max_rectangle
        ):
            starts.append(place)
            num_tokens, num_new, longest = 0, length, length
        num_tokens += num_new
        total += num_new
    return RunPlan(tuple(np.split(order, starts[1:])), block_size, total)


def _num_common(prompts: Prompts, order: Int64Array, limits: PackLimits) -> Int64Array:
    """How many first tokens each prompt has in common with the one before it; 0 for the first."""
    common = np.zeros(len(order), np.int64)
    if not limits.shares_blocks:
        return common
    for place in range(1, len(order)):
        one, other = prompts[int(order[place - 1])], prompts[int(order[place])]
        length = min(len(one), len(other))
        differs = one[:length] != other[:length]
        common[place] = int(differs.argmax()) if differs.any() else length
    return common


def _num_shared(lengths: Int64Array, common: Int64Array, block_size: int) -> Int64Array:
    """Tokens in whole blocks of the prompt before; the last token is always left to compute."""
    return np.minimum(common, lengths - 1) // block_size * block_size


def _filler(num_tokens: int, longest: int) -> Int64Array:
    """Lengths of the rows that fill a run up, none above the longest prompt's if that can be."""
    size = max(longest, -(-num_tokens // _NUM_FILLER_ROWS))
    starts = range(0, num_tokens, size)
    return np.array([min(size, num_tokens - start) for start in starts], np.int64)


def _rectangle(tables: Sequence[Sequence[int]]) -> Int32Array:
    """int32 [rows, longest]; places that no row reads point to block 0."""
    table = np.zeros((len(tables), max(map(len, tables))), np.int32)
    for row, blocks in zip(table, tables, strict=True):
        row[: len(blocks)] = blocks
    return table
