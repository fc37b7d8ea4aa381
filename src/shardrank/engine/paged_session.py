"""A session over a graph of layout `paged`: packs prompts, and goes on with less when it must."""

from __future__ import annotations

from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from typing import Protocol

import numpy as np

from shardrank.engine.device_memory import OutOfDeviceMemoryError
from shardrank.engine.packing import (
    DEFAULT_LIMITS,
    PackedRun,
    PackLimits,
    halve,
    pack,
    plan_runs,
    unpad,
)
from shardrank.engine.session import Past, SessionDescription, refuse_broken_mask
from shardrank.errors import ModelError
from shardrank.types import Float32Array, Int64Array, Prompts


class Runner(Protocol):
    """What runs the graph; safe to call from several threads."""

    @property
    def num_at_once(self) -> int:
        """Runs that the device works on at the same time; further callers wait."""
        ...

    def run(self, run: PackedRun) -> Float32Array:
        """Logits (yes, no) of every row, float32. Raises OutOfDeviceMemoryError."""
        ...


class PagedSession:
    """Scores prompts in runs without padding.

    While the device works on a run, the next one is packed. A run that the device has no room for
    is halved, and so are those that come after it; this moves scores by the rounding of the
    precision, as another batch does.
    """

    takes_past = False
    batches_past = False
    shares_past = False

    def __init__(
        self, runner: Runner, description: SessionDescription, limits: PackLimits = DEFAULT_LIMITS
    ) -> None:
        self._runner = runner
        self._description = description
        self._limits = limits

    @property
    def description(self) -> SessionDescription:
        """Where the logits come from."""
        return self._description

    @property
    def limits(self) -> PackLimits:
        """How large runs may be by now."""
        return self._limits

    def score(
        self,
        prompts: Prompts,
        indices: Int64Array,
        *,
        max_tokens: int | None = None,
        reuse_prefix: bool = True,
    ) -> Float32Array:
        """Logits (yes, no) of these prompts, float32 [num_indices, 2]; they may be NaN.

        indices: int64, prompts of one token or more, none twice. max_tokens: of a run, if that is
        less than the device would take. reuse_prefix: compute once what prompts begin with.

        Raises ModelError if the device has no room for a prompt alone.
        """
        logits = np.full((len(prompts), 2), np.nan, np.float32)
        limits = replace(
            self._limits,
            max_tokens=min(self._limits.max_tokens, max_tokens or self._limits.max_tokens),
            shares_blocks=reuse_prefix,
        )
        plan = plan_runs(prompts, indices, limits)

        def score_run(run: Int64Array) -> Float32Array:
            return self._score_run(prompts, run, plan.block_size, limits)

        # One thread more than the device takes: it packs.
        with ThreadPoolExecutor(self._runner.num_at_once + 1) as pool:
            for run, values in zip(plan.runs, pool.map(score_run, plan.runs), strict=True):
                logits[run] = values
        return logits[indices]

    def run(
        self, input_ids: Int64Array, attention_mask: Int64Array, past: Past | None = None
    ) -> Float32Array:
        """Logits of a padded batch, int64 [num_prompts, longest], which is packed anew.

        Raises ValueError for a mask row that is not one unbroken run of ones, or a past.
        """
        refuse_broken_mask(attention_mask)
        if past is not None:
            raise ValueError("a graph of layout paged takes no past; give it whole prompts")
        return self.score(unpad(input_ids, attention_mask), np.arange(len(input_ids)))

    def extend(self, input_ids: Int64Array, past: Past | None = None) -> Past:
        """Not in this layout: raises ValueError."""
        raise ValueError("a graph of layout paged gives no past; give it whole prompts")

    def extend_each(
        self, input_ids: Int64Array, attention_mask: Int64Array, past: Past | None = None
    ) -> Sequence[Past]:
        """Not in this layout: raises ValueError."""
        raise ValueError("a graph of layout paged gives no past; give it whole prompts")

    def _score_run(
        self, prompts: Prompts, indices: Int64Array, block_size: int, limits: PackLimits
    ) -> Float32Array:
        packed = pack(prompts, indices, block_size, limits)
        can_halve = len(indices) > 1
        is_outgrown = packed.num_tokens > self._limits.max_tokens + self._limits.bucket_tokens
        if not (can_halve and is_outgrown):
            try:
                return self._runner.run(packed)[: len(indices)]
            except OutOfDeviceMemoryError as error:
                if not can_halve:
                    raise ModelError(
                        f"the GPU has no memory for one prompt of {packed.num_tokens} tokens "
                        f"({error}); set a smaller prompt.max_tokens, or free the GPU."
                    ) from error
            self._shrink(packed.num_tokens // 2)
        halves = [self._score_run(prompts, half, block_size, limits) for half in halve(indices)]
        return np.concatenate(halves)

    def _shrink(self, max_tokens: int) -> None:
        limits = self._limits
        smaller = max(limits.bucket_tokens, min(limits.max_tokens, max_tokens))
        self._limits = replace(limits, max_tokens=smaller)
