"""One ONNX Runtime session: padded ids in, two logits a prompt out."""

from __future__ import annotations

import os
import platform
import re
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal, Protocol

import numpy as np
import onnxruntime

from shardrank.engine.model import GRAPH_NAME, PreparedModel
from shardrank.errors import ModelError
from shardrank.types import Float32Array, Int64Array

Device = Literal["cpu", "cuda"]

_PROVIDERS = {"cpu": "CPUExecutionProvider", "cuda": "CUDAExecutionProvider"}
_INPUT_NAMES = {"input_ids", "attention_mask"}
_OUTPUT_NAME = "logits"

# Precisions that a device has no kernels for. On CUDA, GroupQueryAttention takes fp16 and bf16,
# and integer products with scales found at run time stay on the CPU, with copies both ways.
_WITHOUT_KERNELS = {"cpu": ("bf16",), "cuda": ("fp32", "w8a8", "int8", "int4", "dynamic-int8")}
_BEST_PRECISION = {"cpu": "w8a8", "cuda": "bf16"}

# What decides which kernel ONNX Runtime takes, best first: the flag in cpuinfo, and our name.
_INSTRUCTION_SETS = (
    ("amx_int8", "amx_int8"),
    ("avx512_vnni", "avx512_vnni"),
    ("avx_vnni", "avx_vnni"),
    ("avx512f", "avx512"),
    ("avx2", "avx2"),
    ("i8mm", "neon_i8mm"),
    ("asimddp", "neon_dotprod"),
    ("asimd", "neon"),
)


@dataclass(frozen=True, slots=True)
class SessionDescription:
    """What a score's last bits depend on, besides the model: on equal ones they are equal."""

    onnxruntime_version: str
    provider: str
    instruction_set: str

    def as_dict(self) -> dict[str, str]:
        """The fields by name, as they stand in the footer of an output file."""
        return asdict(self)


class Session(Protocol):
    """Anything that scores a batch; safe to call from several threads."""

    @property
    def description(self) -> SessionDescription:
        """Where the logits come from."""
        ...

    def run(self, input_ids: Int64Array, attention_mask: Int64Array) -> Float32Array:
        """Logits (yes, no), float32 [num_prompts, 2], of int64 [num_prompts, longest] arrays."""
        ...


class OnnxSession:
    """A session over a graph of layout `padded`; `open_session` makes one."""

    def __init__(self, session: onnxruntime.InferenceSession, description: SessionDescription):
        self._session = session
        self._description = description

    @property
    def description(self) -> SessionDescription:
        """Where the logits come from."""
        return self._description

    def run(self, input_ids: Int64Array, attention_mask: Int64Array) -> Float32Array:
        """Logits (yes, no), float32 [num_prompts, 2]; they may be NaN, which is for the caller.

        Raises ValueError for a mask row that is not one unbroken run of ones.
        """
        refuse_broken_mask(attention_mask)
        feeds = {"input_ids": input_ids, "attention_mask": attention_mask}
        logits: Float32Array = self._session.run([_OUTPUT_NAME], feeds)[0]
        return logits


def open_session(
    folder: Path,
    model: PreparedModel,
    *,
    device: Device = "cpu",
    threads: int | None = None,
    allow_spinning: bool = False,
) -> OnnxSession:
    """Load the graph of a prepared model.

    threads: of the session's own pool; None for every core that this process may use.
    allow_spinning: let idle threads of the pool burn their core while they wait; a little faster
        where nothing else runs on the machine.

    Raises ModelError if the graph cannot be loaded, needs a newer onnxruntime, is of another
    layout, or if the device is not there or has no kernels for the precision: a CPU never stands in
    for a GPU unasked.
    """
    path = folder / GRAPH_NAME
    if model.layout != "padded":
        raise ModelError(
            f"{folder} has the layout {model.layout!r} and this shardrank runs 'padded'; update "
            f"shardrank, or prepare the model with --layout padded."
        )
    if _release(onnxruntime.__version__) < _release(model.min_onnxruntime):
        raise ModelError(
            f"{folder} needs onnxruntime {model.min_onnxruntime} or newer and "
            f"{onnxruntime.__version__} is installed; upgrade it with "
            f'`pip install -U "onnxruntime>={model.min_onnxruntime}"`.'
        )
    provider = _provider(device)
    _refuse_precision(folder, model.precision, device)
    try:
        session = onnxruntime.InferenceSession(
            str(path), _options(threads or num_cores(), allow_spinning), providers=[provider]
        )
    except Exception as error:  # onnxruntime's errors have no common base
        raise ModelError(
            f"{path} cannot be loaded by onnxruntime {onnxruntime.__version__} ({error}); copy the "
            f"model folder again, or make it again with `shardrank prepare`."
        ) from error
    _refuse_other_graph(session, path)
    _refuse_fallback(session, device)
    # The arithmetic of a GPU does not depend on the CPU beside it.
    cpu = read_instruction_set() if device == "cpu" else "none"
    return OnnxSession(
        session, SessionDescription(onnxruntime.__version__, _PROVIDERS[device], cpu)
    )


def refuse_broken_mask(attention_mask: Int64Array) -> None:
    """Raise ValueError unless every row is zeros, one run of ones, zeros.

    Attention kernels count the ones and take them for neighbours: a hole would give a wrong score
    without an error, and a row without ones a meaningless one.
    """
    edges = np.diff(attention_mask, axis=1, prepend=0)
    is_bit = ((attention_mask == 0) | (attention_mask == 1)).all(axis=1)
    is_sound = is_bit & ((edges == 1).sum(axis=1) == 1)
    if not is_sound.all():
        row = int(np.argmin(is_sound))
        raise ValueError(
            f"attention_mask row {row} is not one unbroken run of ones; pad a prompt on the left "
            f"with zeros, and leave out prompts without tokens."
        )


def num_cores() -> int:
    """Cores that this process may use, which may be fewer than the machine has."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def instruction_set(cpuinfo: str) -> str | None:
    """The best instruction set in the text of /proc/cpuinfo; None if it names none we know."""
    lines = re.findall(r"^(?:flags|Features)\s*:(.*)$", cpuinfo, flags=re.MULTILINE)
    flags = set(lines[0].split()) if lines else set()
    return next((name for flag, name in _INSTRUCTION_SETS if flag in flags), None)


def read_instruction_set() -> str:
    """The instruction set of this machine; its architecture where /proc/cpuinfo tells nothing."""
    path = Path("/proc/cpuinfo")
    found = instruction_set(path.read_text(errors="replace")) if path.is_file() else None
    return found or platform.machine()


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
    return _PROVIDERS["cuda"], {"arena_extend_strategy": "kSameAsRequested"}


def _refuse_precision(folder: Path, precision: str, device: Device) -> None:
    if precision in _WITHOUT_KERNELS[device]:
        raise ModelError(
            f"{folder} has the precision {precision!r}, which onnxruntime cannot run on the device "
            f"{device}; prepare the model with --precision {_BEST_PRECISION[device]}."
        )


def _refuse_other_graph(session: onnxruntime.InferenceSession, path: Path) -> None:
    inputs = {node.name for node in session.get_inputs()}
    outputs = {node.name for node in session.get_outputs()}
    if inputs != _INPUT_NAMES or _OUTPUT_NAME not in outputs:
        raise ModelError(
            f"{path} takes {sorted(inputs)} and gives {sorted(outputs)[:3]}, where the layout "
            f"'padded' takes input_ids and attention_mask and gives logits; an export of another "
            f"tool becomes one with `shardrank prepare`."
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
