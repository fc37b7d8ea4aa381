"""Random prompts, and the batches in which a model must give them the same logits."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np

from shardrank.engine.batching import left_pad
from shardrank.engine.model import PreparedModel
from shardrank.engine.session import Session
from shardrank.types import Float32Array, Float64Array, Int64Array, Prompts

# Around the sizes in which kernels cut their work.
_LENGTHS = (1, 17, 64, 129, 257)
# Odd, so that batches of an odd and of an even number of rows are tried.
_EQUAL_LENGTH = 33
_EQUAL_BATCHES = (2, 3, 8)
_SEED = 20260215

Padding = Callable[[Prompts, Int64Array, int], tuple[Int64Array, Int64Array]]


def random_prompts(model: PreparedModel, lengths: Sequence[int] = _LENGTHS) -> Prompts:
    """Prompts of these lengths, none over max_tokens; the same for every call."""
    sizes = np.minimum(np.array(lengths, np.int64), model.max_tokens)
    offsets = np.concatenate([np.zeros(1, np.int64), np.cumsum(sizes)])
    random = np.random.default_rng(_SEED)
    # Below the special tokens, as the words of a document are.
    token_ids = random.integers(0, model.pad_id, int(offsets[-1]), dtype=np.int32)
    return Prompts(
        token_ids=token_ids,
        offsets=offsets,
        num_shared=np.zeros(len(sizes), np.int32),
        truncated=np.zeros(len(sizes), np.bool_),
    )


def equal_prompts(model: PreparedModel) -> Prompts:
    """As many prompts of one odd length as the largest batch of `unpadded_batches` takes."""
    return random_prompts(model, [_EQUAL_LENGTH] * max(_EQUAL_BATCHES))


def right_pad(prompts: Prompts, indices: Int64Array, pad_id: int) -> tuple[Int64Array, Int64Array]:
    """input_ids and attention_mask, int64 [num_indices, longest], prompts at the left edge."""
    input_ids, mask = left_pad(prompts, indices, pad_id)
    width = mask.shape[1]
    order = (np.arange(width) + width - mask.sum(axis=1, keepdims=True)) % width
    return np.take_along_axis(input_ids, order, 1), np.take_along_axis(mask, order, 1)


def logits_alone(session: Session, prompts: Prompts, pad_id: int) -> Float32Array:
    """Logits (yes, no) of each prompt as a batch of its own, float32 [num_prompts, 2]."""
    rows = [
        session.run(*left_pad(prompts, np.array([index]), pad_id)) for index in range(len(prompts))
    ]
    return np.concatenate(rows)


def logits_together(
    session: Session, prompts: Prompts, pad_id: int, padding: Padding = left_pad
) -> Float32Array:
    """The same with all prompts in one batch."""
    return session.run(*padding(prompts, np.arange(len(prompts)), pad_id))


def batch_effect(session: Session, prompts: Prompts, pad_id: int) -> float:
    """The largest difference of log-odds between prompts alone and in batches without padding.

    prompts: of one length, as `equal_prompts` gives them.
    """
    alone = logits_alone(session, prompts, pad_id)
    return max(
        largest_difference(
            session.run(*left_pad(prompts, np.arange(min(size, len(prompts))), pad_id)),
            alone[:size],
        )
        for size in _EQUAL_BATCHES
    )


def log_odds(logits: Float32Array) -> Float64Array:
    """yes - no in float64, so that the subtraction adds no error of its own."""
    return logits[:, 0].astype(np.float64) - logits[:, 1]


def largest_difference(one: Float32Array, other: Float32Array) -> float:
    """Of the log-odds of two sets of logits; NaN where either is not finite."""
    return float(np.abs(log_odds(one) - log_odds(other)).max())
