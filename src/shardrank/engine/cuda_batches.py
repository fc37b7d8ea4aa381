"""Runs of a `padded` graph on an NVIDIA GPU."""

from __future__ import annotations

import onnxruntime

from shardrank.engine.device_memory import run_with_room
from shardrank.engine.session import SessionDescription, refuse_broken_mask
from shardrank.types import Float32Array, Int64Array


class CudaBatches:
    """One session; safe to call from several threads.

    session: of a `padded` graph, on CUDA.
    """

    def __init__(
        self, session: onnxruntime.InferenceSession, description: SessionDescription
    ) -> None:
        self._session = session
        self._description = description

    @property
    def description(self) -> SessionDescription:
        """Where the logits come from."""
        return self._description

    def run(self, input_ids: Int64Array, attention_mask: Int64Array) -> Float32Array:
        """Logits (yes, no) of every row, float32 [num_prompts, 2].

        Raises OutOfDeviceMemoryError, and ValueError for a mask row that is not one unbroken run
        of ones.
        """
        refuse_broken_mask(attention_mask)
        feeds = {"input_ids": input_ids, "attention_mask": attention_mask}
        (logits,) = run_with_room(lambda options: self._session.run(["logits"], feeds, options))
        found: Float32Array = logits
        return found
