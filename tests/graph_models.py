"""Prepared models of random weights beside their oracle, and batches of random prompts."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from oracles.checkpoints import Shape, make_random_checkpoint
from oracles.numpy_qwen3 import NumpyQwen3
from shardrank.engine.cpu_session import CpuSession
from shardrank.engine.model import PreparedModel
from shardrank.engine.onnx_session import open_session
from shardrank.graph.prepare import prepare
from shardrank.graph.tuning import NO_TUNING, TuningRequest

SHAPES = {
    "one layer": Shape(num_layers=1),
    "grouped": Shape(num_layers=2),
    "ungrouped": Shape(num_layers=3, heads=4, kv_heads=4),
    "untied": Shape(num_layers=2, tied=False),
    "head size of its own": Shape(num_layers=4, hidden=48, heads=2, kv_heads=1, head_dim=64),
    "bfloat16 in several files": Shape(num_layers=4, dtype="bfloat16", shards=3),
    "float16": Shape(num_layers=2, dtype="float16"),
    # On a CPU with 1 MB of level-2 cache, the attention works in blocks of 256 columns.
    "wide heads": Shape(num_layers=2, heads=2, kv_heads=1, head_dim=128),
}


@dataclass(frozen=True)
class Built:
    """A checkpoint, the model that was prepared from it, and an open session."""

    source: Path
    folder: Path
    model: PreparedModel
    session: CpuSession

    def logits(self, prompts: Sequence[np.ndarray], side: str = "left") -> np.ndarray:
        """float32 [num_prompts, 2], scored as one batch padded on this side."""
        return self.session.run(*pad(prompts, self.model.pad_id, side))

    def expected(self, prompts: Sequence[np.ndarray]) -> np.ndarray:
        """The same from the numpy oracle, prompt by prompt."""
        oracle = NumpyQwen3(self.source)
        ids = (self.model.yes_id, self.model.no_id)
        return np.stack([oracle.logits(prompt, *ids) for prompt in prompts])


def build(folder: Path, shape: Shape, precision: str = "fp32", layout: str = "padded") -> Built:
    """Make a checkpoint and prepare it."""
    source = make_random_checkpoint(folder / "checkpoint", shape)
    return build_from(source, folder / "model", precision, layout=layout)


def build_from(
    source: Path,
    folder: Path,
    precision: str = "fp32",
    block_size: int | None = None,
    layout: str = "padded",
    tuning: TuningRequest = NO_TUNING,
) -> Built:
    """Prepare a checkpoint that is there."""
    model = prepare(
        source,
        folder,
        precision=precision,
        block_size=block_size,
        layout=layout,
        tuning=tuning,
        max_tokens=1024,
    )
    return Built(source, folder, model, open_session(folder, model, threads=1))


def random_prompts(lengths: Sequence[int], seed: int = 0) -> list[np.ndarray]:
    """Prompts of these lengths."""
    random = np.random.default_rng(seed)
    return [random.integers(0, 256, length) for length in lengths]


def pad(
    prompts: Sequence[np.ndarray], pad_id: int, side: str = "left", extra: int = 0
) -> tuple[np.ndarray, np.ndarray]:
    """input_ids and attention_mask, int64 [num_prompts, longest + extra]."""
    width = max(map(len, prompts)) + extra
    ids = np.full((len(prompts), width), pad_id, np.int64)
    mask = np.zeros_like(ids)
    for row, prompt in enumerate(prompts):
        start = width - len(prompt) if side == "left" else 0
        ids[row, start : start + len(prompt)] = prompt
        mask[row, start : start + len(prompt)] = 1
    return ids, mask
