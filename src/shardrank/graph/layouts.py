"""The layouts that a graph can be built in."""

from __future__ import annotations

from typing import Any

import ml_dtypes
import numpy as np

from shardrank.engine.model import MIN_ONNXRUNTIME
from shardrank.engine.operators import suits_this_machine
from shardrank.errors import ModelError
from shardrank.graph.architecture import Architecture
from shardrank.graph.fused import FusedLayout
from shardrank.graph.fused_prefix import FusedPrefixLayout
from shardrank.graph.layout import Layout
from shardrank.graph.packed import PackedLayout
from shardrank.graph.padded import PaddedLayout
from shardrank.graph.paged import PagedLayout
from shardrank.graph.precision import activation_type
from shardrank.graph.prefix import PrefixLayout
from shardrank.graph.writer import GraphWriter

# Several rows after one past came with 1.32 (graph.prefix); fused was not tried with older ones.
_MIN_ONNXRUNTIME = {"prefix": "1.32", "fused-prefix": "1.32", "fused": "1.31"}
# What engine/native/cuda_kernels.cu reads at once, and keeps of a head.
_VECTOR, _MAX_HEAD_SIZE = 8, 256
# The same of engine/native/cpu_operators.c.
_CPU_WIDTH = 32


def choose_layout(asked: str | None, precision: str, architecture: Architecture) -> str:
    """As asked; else the fastest: on CPUs "fused-prefix" or "prefix", on GPUs "fused".

    "fused-prefix" for w8a8, where the operators have kernels for the sizes, and where they can be
    built (an x86 processor and a C compiler): who prepares a model on a machine of another kind may
    run it on such machines, too.

    Raises ModelError if there is no such graph.
    """
    dtype = activation_type(precision)
    if asked is None:
        if dtype != np.float32:
            return "fused"
        is_fused = precision == "w8a8" and _is_even_on_cpus(architecture) and suits_this_machine()
        return "fused-prefix" if is_fused else "prefix"
    if asked in ("prefix", "fused-prefix") and dtype != np.float32:
        raise ModelError(
            f"the layout {asked!r} is for CPUs, and the precision has activations of {dtype.name}; "
            f"choose the layout fused, padded or paged, or another precision."
        )
    if asked == "fused-prefix" and precision != "w8a8":
        # Its attention is less exact than other precisions are.
        raise ModelError(
            f"the layout 'fused-prefix' is for the precision w8a8, and {precision} was asked for; "
            f"choose the layout prefix, or another precision."
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
    if layout == "fused-prefix":
        _refuse_uneven_on_cpus(architecture)
        return FusedPrefixLayout(writer, architecture)
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


def _refuse_uneven_on_cpus(architecture: Architecture) -> None:
    """Raises ModelError where the operators of the layout fused-prefix have no kernel."""
    if not _is_even_on_cpus(architecture):
        raise ModelError(
            f"the layout 'fused-prefix' takes heads and widths of a multiple of {_CPU_WIDTH} "
            f"values, and the checkpoint has head_dim = {architecture.head_size}, hidden_size = "
            f"{architecture.hidden_size} and intermediate_size = "
            f"{architecture.intermediate_size}; choose the layout prefix."
        )


def _is_even_on_cpus(architecture: Architecture) -> bool:
    widths = architecture.head_size, architecture.hidden_size, architecture.intermediate_size
    return not any(width % _CPU_WIDTH for width in widths)


def min_onnxruntime(layout: str) -> str:
    """The oldest release that loads a graph of this layout."""
    return _MIN_ONNXRUNTIME.get(layout, MIN_ONNXRUNTIME)
