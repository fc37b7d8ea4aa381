"""Runs of a graph on a CPU."""

from __future__ import annotations

from typing import Any

import numpy as np
import onnxruntime
from numpy.typing import NDArray

from shardrank.engine.keys_and_values import KeysAndValues
from shardrank.engine.layouts import (
    BATCHES_PAST,
    KEEPS_PAST,
    OUTPUT_NAME,
    SHARES_PAST,
    past_names,
    present_names,
)
from shardrank.engine.session import Past, SessionDescription, refuse_broken_mask
from shardrank.types import Float32Array, Int64Array

_SHRINKING_TOKENS = 2048
"""Where a run sees more, memory is given back after it and the next: the allocator would keep it
for good, and to ask for it again costs nothing beside so long a run."""


_REMEMBERED_TOKENS = 256
"""The first tokens of all prompts are mostly fewer, and cost 0.23 MB each in the 0.6B shape."""


class CpuSession:
    """Runs a graph of layout `padded`, `prefix` or `fused-prefix`; `open_session` makes one.

    The last beginning that was asked for is remembered: template and instruction, with which all
    prompts of a job begin, are computed once.
    """

    def __init__(self, session: onnxruntime.InferenceSession, description: SessionDescription):
        self._session = session
        self._description = description
        inputs = {node.name: node for node in session.get_inputs()}
        num_layers = sum(name.startswith("past_key_values.") for name in inputs) // 2
        self._past_names = [name for layer in range(num_layers) for name in past_names(layer)]
        self._present_names = [n for layer in range(num_layers) for n in present_names(layer)]
        self._past_shapes = [inputs[name].shape for name in self._past_names]
        said = session.get_modelmeta().custom_metadata_map
        self._shares_past: bool = SHARES_PAST.items() <= said.items()
        self._batches_past: bool = self._shares_past or BATCHES_PAST.items() <= said.items()
        self._remembered: tuple[bytes, KeysAndValues] | None = None
        self._is_grown = False
        self._shrinking = onnxruntime.RunOptions()
        self._shrinking.add_run_config_entry("memory.enable_memory_arena_shrinkage", "cpu:0")

    @property
    def description(self) -> SessionDescription:
        """Where the logits come from."""
        return self._description

    @property
    def takes_past(self) -> bool:
        """Whether the graph is of layout `prefix` or `fused-prefix`."""
        return bool(self._past_names)

    @property
    def batches_past(self) -> bool:
        """Whether several prompts go on after one past."""
        return self._batches_past

    @property
    def shares_past(self) -> bool:
        """Whether the graph is of layout `fused-prefix`."""
        return self._shares_past

    def run(
        self, input_ids: Int64Array, attention_mask: Int64Array, past: Past | None = None
    ) -> Float32Array:
        """Logits (yes, no), float32 [num_prompts, 2]; they may be NaN, which is for the caller.

        Raises ValueError for a mask row that is not one unbroken run of ones.
        """
        refuse_broken_mask(attention_mask)
        feeds = self._feeds(input_ids, attention_mask, past)
        logits: Float32Array = self._run([OUTPUT_NAME], feeds, past)[0]
        return logits

    def extend(self, input_ids: Int64Array, past: Past | None = None) -> KeysAndValues:
        """Keys and values of the past and of these tokens, int64 [1, num_tokens]."""
        key, remembered = input_ids.tobytes(), self._remembered
        if past is None and remembered is not None and remembered[0] == key:
            return remembered[1]
        feeds = self._feeds(input_ids, np.ones_like(input_ids), past)
        extended = KeysAndValues(self._run(self._present_names, feeds, past))
        # A past that is copied for every row of a batch is not kept.
        if past is None and self._shares_past and input_ids.size <= _REMEMBERED_TOKENS:
            self._remembered = key, extended
        return extended

    def extend_each(
        self, input_ids: Int64Array, attention_mask: Int64Array, past: Past | None = None
    ) -> list[KeysAndValues]:
        """Keys and values of the past and of each row, int64 [num_rows, longest].

        Raises ValueError as `run`, or for a graph whose rows have pasts of their own.
        """
        refuse_broken_mask(attention_mask)
        if not self._shares_past:
            raise ValueError("this graph gives the past of one row; give it one prompt")
        arrays = self._run(self._present_names, self._feeds(input_ids, attention_mask, past), past)
        lengths = attention_mask.sum(axis=1) + (0 if past is None else past.num_tokens)
        return [
            KeysAndValues([np.ascontiguousarray(each[[row], :, :length]) for each in arrays])
            for row, length in enumerate(lengths.tolist())
        ]

    def _run(
        self, outputs: list[str], feeds: dict[str, NDArray[Any]], past: Past | None
    ) -> list[Float32Array]:
        if self._shares_past:
            feeds[KEEPS_PAST] = np.array([int(outputs is self._present_names)], np.int64)
        num_rows, width = feeds["input_ids"].shape
        num_seen = num_rows * (width + (0 if past is None else past.num_tokens))
        is_long = num_seen > _SHRINKING_TOKENS
        options = self._shrinking if is_long or self._is_grown else None
        # The keys and values of a long run are given back by their reader, when the run is over.
        self._is_grown = is_long
        arrays: list[Float32Array] = self._session.run(outputs, feeds, options)
        return arrays

    def _feeds(
        self, input_ids: Int64Array, attention_mask: Int64Array, past: Past | None
    ) -> dict[str, NDArray[Any]]:
        assert past is None or isinstance(past, KeysAndValues)
        num_rows = len(input_ids)
        if num_rows > 1 and past is not None and not self._batches_past:
            raise ValueError("this graph takes a past of one row; give it one prompt")
        past_rows = 1 if self._shares_past else num_rows
        arrays = past.rows(past_rows) if past is not None else self._empty_past(past_rows)
        return {
            "input_ids": input_ids,
            "attention_mask": attention_mask,
            **dict(zip(self._past_names, arrays, strict=True)),
        }

    def _empty_past(self, num_prompts: int) -> list[NDArray[Any]]:
        return [
            np.empty((num_prompts, heads, 0, size), np.float32)
            for _, heads, _, size in self._past_shapes
        ]
