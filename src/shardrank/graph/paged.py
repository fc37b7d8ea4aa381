"""The layout `paged`: the tokens of many prompts in one row, without padding, for CUDA."""

from __future__ import annotations

from typing import Any

import numpy as np

from shardrank.engine.layouts import PAGED_CACHES, PAGED_INPUTS
from shardrank.graph.architecture import Architecture
from shardrank.graph.layout import Operators
from shardrank.graph.writer import MICROSOFT, GraphWriter, Tensor

_INPUT_IDS, _CUMULATIVE, _PAST, _BLOCK_TABLE, _METADATA = PAGED_INPUTS
_PAGED_AXES: dict[str, tuple[str | int, ...]] = {
    _INPUT_IDS: ("tokens",),
    _CUMULATIVE: ("batch_plus_one",),
    _PAST: ("batch",),
    _BLOCK_TABLE: ("batch", "blocks_per_prompt"),
    _METADATA: (3,),
}


class PagedLayout:
    """Prompts behind each other, their keys and values in blocks of a cache.

    input_ids, int64 [tokens]: of every prompt, those that are computed.
    cumulative_sequence_length, int32 [batch + 1]: where in it each prompt begins, and the end.
    past_seqlens, int32 [batch]: tokens of a prompt that stand in its first blocks already.
    block_table, int32 [batch, blocks_per_prompt]: the blocks of each prompt, in order.
    attention_metadata, int32 [3], on the host: the most new tokens of a prompt, the most tokens
        in all, and a lower bound of that.
    key_cache, value_cache [blocks, block_size, heads, size]: scratch, on the device.
    Output: logits, float32 [batch, 2].

    All layers write into the same cache. A layer stores the keys and values of all new tokens
    before any of them attends, and reads nothing that another layer wrote. So a block that one
    prompt fills may stand in the tables of others in the same run, and nothing outlives a run.

    dtype: float16 or bfloat16; float32 makes a graph that no kernel runs, for other evaluators.
    """

    num_axes = 1
    norms_heads = True
    operators: Operators = ""

    def __init__(
        self, writer: GraphWriter, architecture: Architecture, dtype: np.dtype[Any]
    ) -> None:
        self._writer = writer
        self._architecture = architecture
        self._dtype = dtype
        self._last = ""

    def ids(self) -> str:
        """int64 [tokens]."""
        node, constant = self._writer.node, self._writer.constant
        bounds = [
            constant(f"last.{name}", np.array([value], np.int64))
            for name, value in (("start", 1), ("stop", np.iinfo(np.int64).max), ("axis", 0))
        ]
        ends = node("Slice", [_CUMULATIVE, *bounds], "last.ends")
        self._last = node("Sub", [ends, constant("last.one", np.array(1, np.int32))], "last.places")
        return _INPUT_IDS

    def attend(self, query: str, key: str, value: str, name: str, layer: int) -> str:
        """One layer's attention and the norms before it, [tokens, heads x size]."""
        return self._writer.node(
            "PagedAttention",
            [
                *(query, key, value, *PAGED_CACHES, _CUMULATIVE, _PAST, _BLOCK_TABLE),
                *("rotary.cosines", "rotary.sines", "", ""),
                *(f"{name}.q_norm.weight", f"{name}.k_norm.weight", "", "", _METADATA),
            ],
            name,
            domain=MICROSOFT,
            num_heads=self._architecture.num_heads,
            kv_num_heads=self._architecture.num_key_value_heads,
            do_rotary=1,
            qk_norm_epsilon=self._architecture.norm_epsilon,
        )

    def last(self, values: str) -> str:
        """From [tokens, n] to [batch, n]."""
        return self._writer.node("Gather", [values, self._last], f"{values}.last", axis=0)

    def save(self, logits: str) -> None:
        """Write the graph."""
        shape = self._architecture
        block = ("blocks", "block_size", shape.num_key_value_heads, shape.head_size)
        self._writer.save(
            [
                *(
                    Tensor(name, axes, np.int64 if name == _INPUT_IDS else np.int32)
                    for name, axes in _PAGED_AXES.items()
                ),
                *(Tensor(name, block, self._dtype) for name in PAGED_CACHES),
            ],
            [Tensor(logits, ("batch", 2), np.float32)],
        )
