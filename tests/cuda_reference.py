"""Graphs for GPUs without one: their operators in plain numpy, for onnx's own evaluator.

The operators are written from their descriptions in ONNX Runtime's ContribOperators.md and share no
line with shardrank. In float32.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnx
from onnx.reference import ReferenceEvaluator
from onnx.reference.op_run import OpRun

from shardrank.engine.packing import PackedRun
from shardrank.graph.architecture import Architecture, parse_architecture
from shardrank.graph.float_linear import FloatLinear
from shardrank.graph.layout import Layout
from shardrank.graph.qwen3 import Qwen3Graph
from shardrank.graph.weights import Checkpoint
from shardrank.graph.writer import GraphWriter

MICROSOFT = "com.microsoft"
YES, NO = 7, 9


def rms_norm(values: np.ndarray, weight: np.ndarray, epsilon: float) -> np.ndarray:
    mean = np.mean(values * values, axis=-1, keepdims=True)
    return values / np.sqrt(mean + np.float32(epsilon)) * weight


class SimplifiedLayerNormalization(OpRun):
    op_domain = ""

    def _run(self, values, weight, axis=-1, epsilon=1e-5, stash_type=1):
        return (rms_norm(values, weight, epsilon),)


class SkipSimplifiedLayerNormalization(OpRun):
    op_domain = MICROSOFT

    def _run(self, values, skip, weight, epsilon=1e-5):
        total = values + skip
        nothing = np.zeros(0, np.float32)
        return rms_norm(total, weight, epsilon), nothing, nothing, total


class GatherElements(OpRun):
    """The evaluator's own one takes a width above 2 for a mistake."""

    op_domain = ""

    def _run(self, values, indices, axis=0):
        return (np.take_along_axis(values, indices, axis=axis),)


class QuickGelu(OpRun):
    op_domain = MICROSOFT

    def _run(self, values, alpha=1.702):
        return (values / (1 + np.exp(-np.float32(alpha) * values)),)


class PagedAttention(OpRun):
    """Stores every new key and value, and then lets every new token look back.

    The caches are changed in place, as on a GPU.
    """

    op_domain = MICROSOFT

    def _run(
        self, query, key, value, key_cache, value_cache, cumulative, past, table, cosines, sines,
        slots, sink, query_norm, key_norm, key_scale, value_scale, metadata,
        num_heads=0, kv_num_heads=0, do_rotary=0, qk_norm_epsilon=1e-6,
    ):  # fmt: skip
        size = key_cache.shape[3]
        block_size = key_cache.shape[1]
        lengths = np.diff(cumulative)
        assert cumulative[0] == 0
        assert cumulative[-1] == len(query)
        assert metadata[0] >= lengths.max()
        assert metadata[1] >= (past + lengths).max() >= metadata[2]
        rows = np.repeat(np.arange(len(past)), lengths)
        places = past[rows] + np.arange(len(query)) - cumulative[rows]
        blocks = table[rows, places // block_size]

        def turned(values, weight):
            heads = rms_norm(values.reshape(len(values), -1, size), weight, qk_norm_epsilon)
            left, right = np.split(heads, 2, axis=-1)
            cosine, sine = cosines[places][:, None], sines[places][:, None]
            return np.concatenate(
                [left * cosine - right * sine, right * cosine + left * sine], axis=-1
            )

        query = turned(query, query_norm)
        key_cache[blocks, places % block_size] = turned(key, key_norm)
        value_cache[blocks, places % block_size] = value.reshape(len(value), -1, size)
        mixed = np.empty_like(query)
        for row, (start, length) in enumerate(zip(cumulative, lengths, strict=False)):
            seen = past[row] + length
            every = np.arange(seen)
            where = table[row, every // block_size], every % block_size
            group = num_heads // kv_num_heads
            keys = np.repeat(key_cache[where], group, axis=1)
            values = np.repeat(value_cache[where], group, axis=1)
            new = query[start : start + length]
            scores = np.einsum("qhd,khd->hqk", new, keys) / np.float32(np.sqrt(size))
            # Bottom right: the last new token sees all of them.
            is_hidden = every[None] > (past[row] + np.arange(length))[:, None]
            odds = np.where(is_hidden, np.float32(-np.inf), scores)
            odds = np.exp(odds - odds.max(axis=-1, keepdims=True))
            odds /= odds.sum(axis=-1, keepdims=True)
            mixed[start : start + length] = np.einsum("hqk,khd->qhd", odds, values)
        return (mixed.reshape(len(mixed), -1), np.zeros(0), np.zeros(0))


class GroupQueryAttention(OpRun):
    """Rows from column 0, of which the first seqlens_k + 1 tokens count; heads are normed first."""

    op_domain = MICROSOFT

    def _run(
        self, query, key, value, past_key, past_value, last_seen, num_seen, cosines, sines,
        places, bias, sink, key_scale, value_scale, query_norm, key_norm,
        num_heads=0, kv_num_heads=0, do_rotary=0, qk_norm_epsilon=1e-6,
    ):  # fmt: skip
        batch, width, _ = query.shape
        assert num_seen == width
        assert do_rotary == 1

        def turned(values, heads, weight):
            normed = rms_norm(values.reshape(batch, width, heads, -1), weight, qk_norm_epsilon)
            left, right = np.split(normed, 2, axis=-1)
            cosine, sine = cosines[:width, None], sines[:width, None]
            return np.concatenate(
                [left * cosine - right * sine, right * cosine + left * sine], axis=-1
            )

        queries = turned(query, num_heads, query_norm)
        group = num_heads // kv_num_heads
        keys = np.repeat(turned(key, kv_num_heads, key_norm), group, axis=2)
        values = np.repeat(value.reshape(batch, width, kv_num_heads, -1), group, axis=2)
        scores = np.einsum("bqhd,bkhd->bhqk", queries, keys) / np.float32(
            np.sqrt(queries.shape[-1])
        )
        columns = np.arange(width)
        is_hidden = columns[None, None] > np.minimum(
            columns[None, :, None], last_seen[:, None, None]
        )
        odds = np.where(is_hidden[:, None], np.float32(-np.inf), scores)
        odds = np.exp(odds - odds.max(axis=-1, keepdims=True))
        odds /= odds.sum(axis=-1, keepdims=True)
        mixed = np.einsum("bhqk,bkhd->bqhd", odds, values).reshape(batch, width, -1)
        return mixed, np.zeros(0), np.zeros(0)


class NormRotary(OpRun):
    """Heads are normed and turned by their column (engine/native/cuda_operators.c)."""

    op_domain = "shardrank"

    def _run(self, query, key, query_weight, key_weight, cosines, sines, epsilon=0.0):
        def turned(values, weight):
            batch, width, _ = values.shape
            heads = rms_norm(values.reshape(batch, width, -1, len(weight)), weight, epsilon)
            left, right = np.split(heads, 2, axis=-1)
            cosine, sine = cosines[:width, None], sines[:width, None]
            both = [left * cosine - right * sine, right * cosine + left * sine]
            return np.concatenate(both, axis=-1).reshape(values.shape)

        return turned(query, query_weight), turned(key, key_weight)


class SiluProduct(OpRun):
    op_domain = "shardrank"

    def _run(self, gate, up):
        return (gate / (1 + np.exp(-gate)) * up,)


OPERATORS = (
    SimplifiedLayerNormalization, SkipSimplifiedLayerNormalization, QuickGelu, PagedAttention,
    GroupQueryAttention, GatherElements, NormRotary, SiluProduct,
)  # fmt: skip


def build_float32(
    source: Path, folder: Path, make_layout: Callable[[GraphWriter, Architecture], Layout]
) -> Path:
    """A checkpoint's graph in float32, which no kernel runs and an evaluator can."""
    folder.mkdir()
    checkpoint = Checkpoint(source)
    architecture = parse_architecture(checkpoint.config)
    dtype = np.dtype(np.float32)
    with GraphWriter(folder, external=False) as writer:
        Qwen3Graph(
            writer=writer,
            checkpoint=checkpoint,
            architecture=architecture,
            layout=make_layout(writer, architecture),
            linear=FloatLinear(writer, checkpoint, dtype),
            dtype=dtype,
            yes_id=YES,
            no_id=NO,
            max_tokens=512,
        ).build()
    return folder


class ReferenceRunner:
    """Runs a graph in float32; a runner for PagedSession.

    A cache begins as NaN, so that whatever is read before it was written shows.
    """

    num_at_once = 1

    def __init__(self, folder: Path) -> None:
        model = onnx.load(folder / "model.onnx")
        self._evaluator = ReferenceEvaluator(model, new_ops=list(OPERATORS))
        cache = next(node for node in model.graph.input if node.name == "key_cache")
        axes = cache.type.tensor_type.shape.dim
        self._heads_and_size = axes[2].dim_value, axes[3].dim_value
        self.runs: list[PackedRun] = []

    def run(self, run: PackedRun) -> np.ndarray:
        self.runs.append(run)
        shape = (run.num_blocks, run.block_size, *self._heads_and_size)
        feeds = {
            "input_ids": run.input_ids,
            "cumulative_sequence_length": run.cumulative_sequence_length,
            "past_seqlens": run.past_seqlens,
            "block_table": run.block_table,
            "attention_metadata": run.attention_metadata,
            "key_cache": np.full(shape, np.nan, np.float32),
            "value_cache": np.full(shape, np.nan, np.float32),
        }
        (logits,) = self._evaluator.run(["logits"], feeds)
        return logits
