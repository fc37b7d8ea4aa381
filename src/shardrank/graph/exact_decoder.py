"""A checkpoint's logits in float32, computed while its weights pass by once."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise

import numpy as np

from shardrank.graph.architecture import Architecture
from shardrank.graph.qwen3 import rotary_tables
from shardrank.graph.weights import Checkpoint
from shardrank.types import Float32Array, Int32Array, Int64Array, Prompts

_EMBEDDING = "embed_tokens.weight"
_HEAD = "lm_head.weight"


@dataclass(frozen=True, slots=True)
class ExactDecoder:
    """The decoder of qwen3.Qwen3Graph in numpy; one matrix is in memory at a time.

    For a few thousand tokens, all of which are held at once.
    """

    checkpoint: Checkpoint
    architecture: Architecture

    def logits(self, prompts: Prompts, answer_ids: tuple[int, ...]) -> Float32Array:
        """At each prompt's last token, float32 [num_prompts, num_answers]."""
        shape = self.architecture
        longest = int(prompts.lengths.max())
        tables = rotary_tables(longest, shape.head_size, shape.rope_theta)
        positions = np.concatenate([np.arange(length) for length in prompts.lengths])
        turns = tuple(table[positions, None] for table in tables)
        last = prompts.offsets[1:] - 1
        values = self._embed(prompts.token_ids)
        for layer in range(shape.num_layers):
            prefix = f"layers.{layer}"
            normed = self._norm(values, f"{prefix}.input_layernorm")
            attended = self._attention(normed, f"{prefix}.self_attn", prompts.offsets, turns)
            if layer == shape.num_layers - 1:
                attended, values = attended[last], values[last]
            values = values + self._multiply(attended, f"{prefix}.self_attn.o_proj")
            normed = self._norm(values, f"{prefix}.post_attention_layernorm")
            values = values + self._mlp(normed, f"{prefix}.mlp")
        head = self._rows(_EMBEDDING if shape.tied_head else _HEAD, answer_ids)
        return np.asarray(self._norm(values, "norm") @ head.T)

    def _embed(self, token_ids: Int32Array) -> Float32Array:
        ids, places = np.unique(token_ids, return_inverse=True)
        return self._rows(_EMBEDDING, ids.tolist())[places]

    def _rows(self, name: str, numbers: Sequence[int]) -> Float32Array:
        rows = [self.checkpoint.read_rows(name, number, number + 1) for number in numbers]
        return np.concatenate(rows)

    def _attention(
        self, values: Float32Array, name: str, offsets: Int64Array, turns: Sequence[Float32Array]
    ) -> Float32Array:
        """Each prompt by itself; [num_tokens, heads x size]."""
        size = self.architecture.head_size
        query, key, value = (
            self._multiply(values, f"{name}.{part}_proj").reshape(len(values), -1, size)
            for part in ("q", "k", "v")
        )
        query = _rotate(self._norm(query, f"{name}.q_norm"), turns)
        key = _rotate(self._norm(key, f"{name}.k_norm"), turns)
        parts = [
            _attend(query[start:stop], key[start:stop], value[start:stop])
            for start, stop in pairwise(offsets)
        ]
        return np.concatenate(parts).reshape(len(values), -1)

    def _mlp(self, values: Float32Array, name: str) -> Float32Array:
        gate = self._multiply(values, f"{name}.gate_proj")
        # The exponential of a very negative value's opposite is infinite, and its share is 0.
        with np.errstate(over="ignore"):
            gate = gate / (1 + np.exp(-gate))
        return self._multiply(gate * self._multiply(values, f"{name}.up_proj"), f"{name}.down_proj")

    def _multiply(self, values: Float32Array, name: str) -> Float32Array:
        return np.asarray(values @ self.checkpoint.read(f"{name}.weight").T)

    def _norm(self, values: Float32Array, name: str) -> Float32Array:
        squares = np.square(values).mean(axis=-1, keepdims=True)
        scale = np.sqrt(squares + np.float32(self.architecture.norm_epsilon))
        return np.asarray(values / scale * self.checkpoint.read(f"{name}.weight"))


def _rotate(heads: Float32Array, turns: Sequence[Float32Array]) -> Float32Array:
    """Rotary positions; heads [num_tokens, num_heads, size]."""
    cosines, sines = turns
    first, second = np.split(heads, 2, axis=-1)
    return np.concatenate(
        [first * cosines - second * sines, second * cosines + first * sines], axis=-1
    )


def _attend(query: Float32Array, key: Float32Array, value: Float32Array) -> Float32Array:
    """Causal attention of one prompt, [num_tokens, heads, size] each."""
    num_tokens, num_heads, size = query.shape
    shared = num_heads // key.shape[1]
    # [heads, num_tokens, size] from here on.
    keys, values = (np.repeat(part, shared, axis=1).swapaxes(0, 1) for part in (key, value))
    scores = query.swapaxes(0, 1) @ keys.swapaxes(1, 2) / np.float32(np.sqrt(size))
    scores[:, ~np.tri(num_tokens, dtype=bool)] = -np.inf
    shares = np.exp(scores - scores.max(axis=-1, keepdims=True))
    shares /= shares.sum(axis=-1, keepdims=True)
    return np.asarray((shares @ values).swapaxes(0, 1))
