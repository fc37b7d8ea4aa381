"""How much memory a scoring actor takes, from what is known before one runs. Pure."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from shardrank.engine.memory_plan import cache_bytes, run_bytes
from shardrank.engine.scoring import (
    DEFAULT_MAX_BATCH_TOKENS,
    MAX_TOKENS_IN_HAND,
    MAX_TOKENS_IN_HAND_PER_CALLER,
)
from shardrank.engine.session import Device

_PROCESS_BYTES = 350_000_000
"""Python, Ray, Arrow and ONNX Runtime, with nothing loaded."""
_CUDA_BYTES = 600_000_000
"""A CUDA context and the workspaces of its libraries."""
_FLOAT_BYTES, _HALF_BYTES = 4, 2
_PREPACKED = 1.3
"""CPU kernels keep some weights a second time, in the order in which they read them."""


def actor_bytes(
    architecture: Mapping[str, Any],
    model_bytes: int,
    *,
    layout: str,
    device: Device,
    threads: int,
    max_batch_tokens: int | None,
    longest_tokens: int,
) -> int | None:
    """Bytes of an actor at its peak: on the CPU of its process, on CUDA of the GPU.

    model_bytes: of the model's files. layout: of its graph. longest_tokens: of the longest prompt.

    None where the architecture does not say how wide it is. The widths and the weights decide, so
    the same formula serves 0.6B, 4B and 8B; it was compared with 0.6B on a CPU only.
    """
    try:
        run, cached = run_bytes(architecture), cache_bytes(architecture)
        num_layers = int(architecture["num_layers"])
    except KeyError:
        return None
    batch_tokens = max_batch_tokens or DEFAULT_MAX_BATCH_TOKENS[device]
    if device == "cuda":
        return _CUDA_BYTES + model_bytes + batch_tokens * (run + cached)
    wider = _FLOAT_BYTES // _HALF_BYTES
    if layout in ("prefix", "fused-prefix"):
        # Each layer leaves keys and values, for the pieces of the prompt that follow.
        most = max(MAX_TOKENS_IN_HAND, threads * MAX_TOKENS_IN_HAND_PER_CALLER)
        in_hand = max(longest_tokens, min(most, threads * longest_tokens))
        working = in_hand * (run + num_layers * cached) * wider
    else:
        working = max(batch_tokens, longest_tokens) * run * wider
    return round(_PROCESS_BYTES + model_bytes * _PREPACKED) + working
