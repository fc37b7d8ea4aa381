"""ONNX Runtime sessions over prepared graphs."""

from __future__ import annotations

import re
from dataclasses import replace
from pathlib import Path
from typing import Any

import onnxruntime

from shardrank.engine.cpu_session import CpuSession
from shardrank.engine.cuda_batches import CudaBatches
from shardrank.engine.cuda_device import read_cuda_device
from shardrank.engine.cuda_runner import CudaRunner
from shardrank.engine.halving_session import HalvingSession
from shardrank.engine.layouts import (
    KEEPS_PAST,
    LAYOUTS,
    OUTPUT_NAME,
    PAGED_CACHES,
    PAGED_INPUTS,
)
from shardrank.engine.machine import num_cores, read_instruction_set
from shardrank.engine.memory_plan import NUM_CUDA_CALLERS, plan_batch_tokens, plan_limits
from shardrank.engine.model import GRAPH_NAME, PreparedModel
from shardrank.engine.operators import find_library
from shardrank.engine.paged_session import PagedSession
from shardrank.engine.session import Device, Session, SessionDescription
from shardrank.errors import ModelError

_PROVIDERS = {"cpu": "CPUExecutionProvider", "cuda": "CUDAExecutionProvider"}
_BATCH_INPUTS = {"input_ids", "attention_mask"}
_INPUT_NAMES = {
    "padded": _BATCH_INPUTS,
    "fused": _BATCH_INPUTS,
    "prefix": _BATCH_INPUTS,
    "fused-prefix": {*_BATCH_INPUTS, KEEPS_PAST},
    "paged": {*PAGED_INPUTS, *PAGED_CACHES},
}
_WITH_PAST = ("prefix", "fused-prefix")

# Precisions that a device has no kernels for. On CUDA, GroupQueryAttention takes fp16 and bf16,
# and integer products with scales found at run time stay on the CPU, with copies both ways.
_WITHOUT_KERNELS = {"cpu": ("bf16",), "cuda": ("fp32", "w8a8", "int8", "int4", "dynamic-int8")}
_ONLY_ON: dict[str, Device] = {"fused-prefix": "cpu", "fused": "cuda", "paged": "cuda"}
_BEST_PRECISION = {"cpu": "w8a8", "cuda": "bf16"}

CUDA_OPTIONS = {
    "arena_extend_strategy": "kSameAsRequested",
    # 1, flash attention, and 2, memory-efficient attention where that cannot be. Not 8: cuDNN
    # builds a graph for every new shape in every thread, which takes 0.2 s.
    "sdpa_kernel": "3",
}
"""Options of the CUDA provider."""


def open_session(
    folder: Path,
    model: PreparedModel,
    *,
    device: Device = "cpu",
    threads: int | None = None,
    allow_spinning: bool = False,
) -> Session:
    """Load the graph of a prepared model.

    threads: of the session's own pool; None for every core that this process may use.
    allow_spinning: let idle threads of the pool burn their core while they wait; a little faster
        where nothing else runs on the machine.

    Raises ModelError if the graph cannot be loaded, needs a newer onnxruntime, is of another
    layout, or if the device is not there or has no kernels for the precision: a CPU never stands in
    for a GPU unasked.
    """
    path = folder / GRAPH_NAME
    if model.layout not in LAYOUTS:
        raise ModelError(
            f"{folder} has the layout {model.layout!r} and this shardrank runs "
            f"{', '.join(LAYOUTS)}; update shardrank, or prepare the model with --layout padded."
        )
    if _release(onnxruntime.__version__) < _release(model.min_onnxruntime):
        # The packages for GPUs are a release behind.
        other = ", or prepare the model with --layout padded" if model.layout in _WITH_PAST else ""
        raise ModelError(
            f"{folder} needs onnxruntime {model.min_onnxruntime} or newer and "
            f"{onnxruntime.__version__} is installed; upgrade it with "
            f'`pip install -U "onnxruntime>={model.min_onnxruntime}"`{other}.'
        )
    provider = _provider(device)
    _refuse_precision(folder, model.precision, device)
    _refuse_layout(folder, model.layout, device)
    options = _options(threads or num_cores(), allow_spinning)
    library = find_library(model.layout)
    if library is not None:
        options.register_custom_ops_library(str(library))
    if model.layout == "paged":
        # Each of its nodes has a kernel on CUDA; one that had none would be slow without a word.
        options.add_session_config_entry("session.disable_cpu_ep_fallback", "1")
        # Patterns are kept for each shape of a run, and no two runs have the same.
        options.enable_mem_pattern = False
    try:
        session = onnxruntime.InferenceSession(str(path), options, providers=[provider])
    except Exception as error:  # onnxruntime's errors have no common base
        raise ModelError(
            f"{path} cannot be loaded by onnxruntime {onnxruntime.__version__} ({error}); copy the "
            f"model folder again, or make it again with `shardrank prepare`."
        ) from error
    _refuse_other_graph(session, path, model.layout)
    _refuse_fallback(session, device)
    description = describe_session(device)
    if device == "cuda" and model.layout in ("padded", "fused"):
        free_bytes = read_cuda_device().free_bytes
        max_tokens = plan_batch_tokens(model.architecture, free_bytes, NUM_CUDA_CALLERS)
        return HalvingSession(CudaBatches(session, description), max_tokens)
    if model.layout != "paged":
        return CpuSession(session, description)
    limits = plan_limits(model.architecture, read_cuda_device().free_bytes, model.max_tokens)
    num_cached = replace(limits, max_tokens=max(limits.max_tokens, model.max_tokens))
    runner = CudaRunner(session, num_cached.max_cache_tokens)
    return PagedSession(runner, description, limits)


def describe_session(device: Device) -> SessionDescription:
    """What a session that `open_session` gives says of itself, without one."""
    # The arithmetic of a GPU does not depend on the CPU beside it.
    cpu = read_instruction_set() if device == "cpu" else "none"
    return SessionDescription(onnxruntime.__version__, _PROVIDERS[device], cpu)


def _options(threads: int, allow_spinning: bool) -> onnxruntime.SessionOptions:
    options = onnxruntime.SessionOptions()
    # 0 would mean every core of the machine, whatever this process was given.
    options.intra_op_num_threads = max(1, threads)
    options.inter_op_num_threads = 1
    options.execution_mode = onnxruntime.ExecutionMode.ORT_SEQUENTIAL
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_ENABLE_ALL
    options.log_severity_level = 3
    options.add_session_config_entry("session.intra_op.allow_spinning", str(int(allow_spinning)))
    return options


def _provider(device: Device) -> tuple[str, dict[str, Any]]:
    if device == "cpu":
        return _PROVIDERS["cpu"], {}
    if _PROVIDERS["cuda"] not in onnxruntime.get_available_providers():
        raise ModelError(
            f"device cuda was asked for and the installed onnxruntime {onnxruntime.__version__} "
            f'has no CUDA; run `pip uninstall onnxruntime` and `pip install "shardrank[gpu]"`.'
        )
    if hasattr(onnxruntime, "preload_dlls"):
        onnxruntime.preload_dlls()
    return _PROVIDERS["cuda"], CUDA_OPTIONS


def _refuse_precision(folder: Path, precision: str, device: Device) -> None:
    if precision in _WITHOUT_KERNELS[device]:
        raise ModelError(
            f"{folder} has the precision {precision!r}, which onnxruntime cannot run on the device "
            f"{device}; prepare the model with --precision {_BEST_PRECISION[device]}."
        )


def _refuse_layout(folder: Path, layout: str, device: Device) -> None:
    only = _ONLY_ON.get(layout, device)
    if only != device:
        raise ModelError(
            f"{folder} has the layout {layout!r}, which runs on the device {only} only; prepare "
            f"the model with --precision {_BEST_PRECISION[device]}, or give --device {only}."
        )


def _refuse_other_graph(session: onnxruntime.InferenceSession, path: Path, layout: str) -> None:
    inputs = {node.name for node in session.get_inputs()}
    outputs = {node.name for node in session.get_outputs()}
    pasts = {name for name in inputs if name.startswith("past_key_values.")}
    if (
        inputs - pasts != _INPUT_NAMES[layout]
        or OUTPUT_NAME not in outputs
        or bool(pasts) != (layout in _WITH_PAST)
    ):
        wanted = ", ".join(sorted(_INPUT_NAMES[layout]))
        wanted += ", past_key_values.*" if layout in _WITH_PAST else ""
        raise ModelError(
            f"{path} takes {sorted(inputs)[:4]} and gives {sorted(outputs)[:3]}, where the layout "
            f"{layout!r} takes {wanted} "
            f"and gives logits; "
            f"an export of another tool becomes one with `shardrank prepare`."
        )


def _refuse_fallback(session: onnxruntime.InferenceSession, device: Device) -> None:
    used = session.get_providers()[0]
    if used != _PROVIDERS[device]:
        raise ModelError(
            f"device {device} was asked for and onnxruntime fell back to {used}: its CUDA "
            f'libraries did not load; run `pip install "onnxruntime-gpu[cuda,cudnn]"` and see '
            f"that `nvidia-smi` shows a GPU."
        )


def _release(version: str) -> tuple[int, ...]:
    return tuple(int(part) for part in re.findall(r"\d+", version)[:2])
