"""Long documents in windows: each is scored, and the best counts. Pure functions over arrays."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from shardrank.types import Float32Array, Int64Array, Prompts


@dataclass(frozen=True, slots=True)
class Windows:
    """How long documents are cut: num_tokens of a document each, beginning every stride tokens.

    The last window ends where the document ends, and is as long as the others.
    """

    num_tokens: int
    stride: int


def window_starts(num_document: int, num_window: int, stride: int) -> list[int]:
    """Where the windows of a document begin; one at 0 if it is no longer than a window."""
    last = max(0, num_document - num_window)
    return [*range(0, last, stride), last]


def cut_windows(
    prompts: Prompts, windows: Windows, num_suffix: int, max_tokens: int
) -> tuple[Prompts, Int64Array]:
    """A prompt for each window of each prompt's document, between the same front and suffix.

    prompts: whole documents between num_shared ids in front and num_suffix behind; where those
        leave less room under max_tokens than a window has, the windows of that query are smaller.

    Returns the prompts, and the prompt that each belongs to, int64 [num_windows].
    """
    pieces: list[Int64Array] = [np.zeros(0, np.int64)]
    owners: list[int] = []
    lengths: list[int] = []
    for owner, (begin, length, front) in enumerate(
        zip(
            prompts.offsets[:-1].tolist(),
            prompts.lengths.tolist(),
            prompts.num_shared.tolist(),
            strict=True,
        )
    ):
        num_window = min(windows.num_tokens, max_tokens - front - num_suffix)
        num_document = length - front - num_suffix
        if length == 0 or num_document <= num_window:
            starts, num_window = [0], num_document
        else:
            starts = window_starts(num_document, num_window, windows.stride)
        for start in starts:
            middle = begin + front + start
            pieces += [
                np.arange(begin, begin + front),
                np.arange(middle, middle + num_window),
                np.arange(begin + length - num_suffix, begin + length),
            ] if length else []  # fmt: skip
            lengths.append(front + num_window + num_suffix if length else 0)
            owners.append(owner)
    owner_of = np.array(owners, np.int64)
    cut = Prompts(
        token_ids=prompts.token_ids[np.concatenate(pieces)],
        offsets=np.concatenate([np.zeros(1, np.int64), np.cumsum(np.array(lengths, np.int64))]),
        num_shared=prompts.num_shared[owner_of],
        truncated=prompts.truncated[owner_of],
    )
    return cut, owner_of


def best_of_windows(logits: Float32Array, owner_of: Int64Array) -> Float32Array:
    """The logits of each prompt's best window: float32 [num_windows, 2] to [num_prompts, 2].

    A prompt with a window that has no finite number gets that window's logits.
    """
    with np.errstate(invalid="ignore"):
        values = logits[:, 0] - logits[:, 1]
    # NaN sorts behind every number, and so counts as the best.
    order = np.lexsort((values, owner_of))
    is_last = np.append(np.diff(owner_of[order]) > 0, True)[: len(order)]
    best: Float32Array = logits[order[is_last]]
    return best
