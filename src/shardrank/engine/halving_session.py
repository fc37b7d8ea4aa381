"""A session whose batches become as small as the GPU needs them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

import numpy as np

from shardrank.engine.device_memory import OutOfDeviceMemoryError
from shardrank.engine.session import Past, SessionDescription
from shardrank.errors import ModelError
from shardrank.types import Float32Array, Int64Array


class BatchRunner(Protocol):
    """What runs a padded batch; safe to call from several threads."""

    @property
    def description(self) -> SessionDescription:
        """Where the logits come from."""
        ...

    def run(self, input_ids: Int64Array, attention_mask: Int64Array) -> Float32Array:
        """Logits (yes, no) of every row, float32. Raises OutOfDeviceMemoryError."""
        ...


class HalvingSession:
    """Scores padded batches; one that the device has no room for is halved, and so are all after.

    Scores in half precision move with the batch by the rounding of the precision: so they do then.

    max_tokens: of a batch, padding included, that is tried at all; a row is never cut.
    """

    takes_past = False
    batches_past = False
    shares_past = False

    def __init__(self, runner: BatchRunner, max_tokens: int) -> None:
        self._runner = runner
        self._max_tokens = max_tokens

    @property
    def description(self) -> SessionDescription:
        """Where the logits come from."""
        return self._runner.description

    @property
    def max_tokens(self) -> int:
        """How large a batch may be by now."""
        return self._max_tokens

    def run(
        self, input_ids: Int64Array, attention_mask: Int64Array, past: Past | None = None
    ) -> Float32Array:
        """Logits (yes, no), float32 [num_prompts, 2], of int64 [num_prompts, longest] arrays.

        Raises ModelError if the device has no room for a prompt alone, ValueError for a past and
        for a mask row that is not one unbroken run of ones.
        """
        if past is not None:
            raise ValueError("a graph of layout padded takes no past; give it whole prompts")
        num_tokens = input_ids.size
        if len(input_ids) == 1 or num_tokens <= self._max_tokens:
            try:
                return self._runner.run(input_ids, attention_mask)
            except OutOfDeviceMemoryError as error:
                if len(input_ids) == 1:
                    raise ModelError(
                        f"the GPU has no memory for one prompt of {num_tokens} tokens ({error}); "
                        f"set a smaller prompt.max_tokens, or free the GPU."
                    ) from error
                self._max_tokens = min(self._max_tokens, num_tokens // 2)
        middle = len(input_ids) // 2
        halves = (slice(0, middle), slice(middle, None))
        return np.concatenate(
            [self.run(*_without_margins(input_ids[half], attention_mask[half])) for half in halves]
        )

    def extend(self, input_ids: Int64Array, past: Past | None = None) -> Past:
        """Not in this layout: raises ValueError."""
        raise ValueError("a graph of layout padded gives no past; give it whole prompts")

    def extend_each(
        self, input_ids: Int64Array, attention_mask: Int64Array, past: Past | None = None
    ) -> Sequence[Past]:
        """Not in this layout: raises ValueError."""
        raise ValueError("a graph of layout padded gives no past; give it whole prompts")


def _without_margins(
    input_ids: Int64Array, attention_mask: Int64Array
) -> tuple[Int64Array, Int64Array]:
    """The batch without the columns at its sides that are padding in every row."""
    columns = np.flatnonzero(attention_mask.any(axis=0))
    kept = slice(int(columns[0]), int(columns[-1]) + 1) if len(columns) else slice(None)
    return input_ids[:, kept], attention_mask[:, kept]
