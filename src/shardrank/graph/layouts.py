"""The layouts that a graph can be built in."""

from __future__ import annotations

from typing import Any

import ml_dtypes
import numpy as np

from shardrank.engine.layouts import LAYOUTS
from shardrank.engine.model import MIN_ONNXRUNTIME
from shardrank.errors import ModelError
from shardrank.graph.architecture import Architecture
from shardrank.graph.fused import FusedLayout
from shardrank.graph.layout import Layout
from shardrank.graph.packed import PackedLayout
from shardrank.graph.padded import PaddedLayout
from shardrank.graph.paged import PagedLayout
from shardrank.graph.prefix import PrefixLayout
from shardrank.graph.writer import GraphWriter

# Several rows after one past came with 1.32 (graph.prefix); fused was not tried with older ones.
_MIN_ONNXRUNTIME = {"prefix": "1.32", "fused": "1.31"}
# What engine/native/cuda_kernels.cu reads at once, and keeps of a head.
_VECTOR, _MAX_HEAD_SIZE = 8, 256


def choose_layout(asked: str | None, dtype: np.dtype[Any]) -> str:
    """As asked; else the fastest: "prefix" on CPUs, "fused" on GPUs.

    dtype: of what flows between the matrix products: float32 on CPUs, halves on GPUs.

    Raises ModelError if there is no such graph.
    """
    if asked is None:
        return "prefix" if dtype == np.float32 else "fused"
    if asked not in LAYOUTS:
        raise ModelError(f"unknown layout {asked!r}; choose one of {', '.join(LAYOUTS)}.")
    if asked == "prefix" and dtype != np.float32:
        raise ModelError(
            f"the layout 'prefix' is for CPUs, and the precision has activations of {dtype.name}; "
            f"choose the layout fused, padded or paged, or another precision."
        )
    if asked in ("paged", "fused") and dtype == np.float32:
        raise ModelError(
            f"the layout {asked!r} is for GPUs, and the precision has activations of {dtype.name}; "
            f"choose the precision bf16 or fp16, or another layout."
        )
    return asked


def make_layout(
    layout: str, writer: GraphWriter, architecture: Architecture, dtype: np.dtype[Any]
) -> Layout:
    """The nodes of a layout, as `choose_layout` names it; dtype as there."""
    if layout == "paged":
        return PagedLayout(writer, architecture, dtype)
    if layout == "fused":
        _refuse_uneven(architecture)
        return FusedLayout(writer, architecture)
    if layout == "prefix":
        return PrefixLayout(writer, architecture)
    if dtype == np.float32:
        return PackedLayout(writer, architecture)
    # Only GPUs run bfloat16; a graph in float16 can still be tried on a CPU.
    return PaddedLayout(writer, architecture, norms_heads=dtype == ml_dtypes.bfloat16)


def _refuse_uneven(architecture: Architecture) -> None:
    """Raises ModelError where the operators of the layout fused have no kernel."""
    head, middle = architecture.head_size, architecture.intermediate_size
    if head % _VECTOR or head > _MAX_HEAD_SIZE or middle % _VECTOR:
        raise ModelError(
            f"the layout 'fused' takes heads of up to {_MAX_HEAD_SIZE} values and multiples of "
            f"{_VECTOR}, and the checkpoint has head_dim = {head} and intermediate_size = "
            f"{middle}; choose the layout padded."
        )


def min_onnxruntime(layout: str) -> str:
    """The oldest release that loads a graph of this layout."""
    return _MIN_ONNXRUNTIME.get(layout, MIN_ONNXRUNTIME)
