"""Reads packed runs back into prompts, as a kernel would find them, and a runner that scores so."""

from __future__ import annotations

import threading
from collections.abc import Sequence

import numpy as np

from shardrank.engine.device_memory import OutOfDeviceMemoryError
from shardrank.engine.packing import PackedRun
from shardrank.testing import fake_log_odds
from shardrank.types import Prompts

EMPTY = -1


def prompts_of(rows: Sequence[Sequence[int]]) -> Prompts:
    """Prompts of these ids."""
    return Prompts(
        token_ids=np.array([id for row in rows for id in row], np.int32),
        offsets=np.cumsum([0, *map(len, rows)]).astype(np.int64),
        num_shared=np.zeros(len(rows), np.int32),
        truncated=np.zeros(len(rows), np.bool_),
    )


def rows_of(run: PackedRun) -> list[list[int]]:
    """What each row reads in the cache, filler included, when all new ids have been stored there.

    Fails where two tokens are stored in one place, or a place is read that nothing was stored in.
    """
    cache = np.full((run.num_blocks, run.block_size), EMPTY, np.int64)
    starts = run.cumulative_sequence_length
    lengths = np.diff(starts)
    for row, (start, length) in enumerate(zip(starts, lengths, strict=False)):
        for number in range(length):
            place = run.past_seqlens[row] + number
            block = run.block_table[row, place // run.block_size]
            assert cache[block, place % run.block_size] == EMPTY
            cache[block, place % run.block_size] = run.input_ids[start + number]
    found = []
    for row, length in enumerate(run.past_seqlens + lengths):
        places = np.arange(length)
        blocks = run.block_table[row, places // run.block_size]
        found.append(cache[blocks, places % run.block_size].tolist())
        assert EMPTY not in found[-1]
    return found


class FakeRunner:
    """Gives each row the logits of shardrank.testing.fake_log_odds.

    room: tokens that the device has memory for. num_tokens: of the runs that it did, in order.
    num_failed: runs that it had no room for.
    """

    def __init__(self, room: int = 10**9, num_at_once: int = 1) -> None:
        self.room = room
        self.num_at_once = num_at_once
        self.num_tokens: list[int] = []
        self.num_failed = 0
        self._lock = threading.Lock()

    def run(self, run: PackedRun) -> np.ndarray:
        with self._lock:
            if run.num_tokens > self.room:
                self.num_failed += 1
                raise OutOfDeviceMemoryError("Failed to allocate memory")
            self.num_tokens.append(run.num_tokens)
        yes = np.array([fake_log_odds(row) / 2 for row in rows_of(run)], np.float32)
        return np.stack([yes, -yes], axis=1)
